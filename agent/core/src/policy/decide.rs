//! The verdict on one request. Order: denies first, then what the caller's workloads grant; nothing found is a denial.
//! An endpoint in audit mode turns a denial by default into a forward that says so, and no other denial into anything.

use std::borrow::Cow;
use std::sync::Arc;

use super::effort;
use super::identify::{Matched, Workload};
use super::pattern::Access;
use super::resource::Kind;
use super::set::{About, AllowRule, DenyRule, PolicySet};
use super::settings::Mode;
use super::{Identity, Origin};
use crate::decision::{Decision, Denial, DenyReason, Grant, Permit, RuleRef};
use crate::request::{AzureIdentity, Cloud, CredentialAsk, Request};

/// A request with its names resolved.
#[derive(Debug)]
pub(crate) enum Asked<'a> {
    Path {
        access: Access,
        cloud: Cloud,
        path: Cow<'a, str>,
        subtree: bool,
    },
    /// A credential for one target; none: no rule speaks of that target.
    Target {
        cloud: Cloud,
        target: Option<u32>,
        /// The target that it may mean, for denies.
        near: Option<u32>,
    },
    Scopes(&'a [Arc<str>]),
}

impl Asked<'_> {
    /// Whether a deny about this holds for the request. An allow has to cover it, which is another question for reads.
    pub(crate) fn denied_by(&self, about: &About) -> bool {
        effort::one();
        match self {
            Self::Path {
                access,
                cloud,
                path,
                subtree,
            } => about
                .paths
                .iter()
                .filter(|p| (p.access, p.cloud) == (*access, *cloud))
                .any(|p| p.path.touches(path, *subtree)),
            Self::Target { cloud, near, .. } => about.token.as_ref().is_some_and(|token| {
                let all = token.targets.is_empty() && token.scopes.is_empty();
                let named = near.is_some_and(|target| token.targets.contains(&target));
                token.cloud == *cloud && (all || named)
            }),
            Self::Scopes(scopes) => about.token.as_ref().is_some_and(|token| {
                let all = token.targets.is_empty() && token.scopes.is_empty();
                // No scopes in the request means all that the node has.
                let some = !token.scopes.is_empty() && scopes.is_empty();
                let named = scopes.iter().any(|scope| token.scopes.contains(scope));
                token.cloud == Cloud::Gcp && (all || some || named)
            }),
        }
    }
}

/// A rule of a workload that covers the request and hasn't ended.
#[derive(Clone, Copy)]
struct Found<'a> {
    allow: &'a AllowRule,
    audience: Option<&'a Arc<str>>,
}

/// What the caller's workloads say.
enum Granted<'a> {
    Grant(&'a Matched, Found<'a>, Grant),
    /// A denial, and whether an endpoint in audit mode may let the request pass all the same.
    Refusal(DenyReason, bool),
}

impl PolicySet {
    /// The verdict on one request to the cloud's instance metadata service. `now` is Unix time in seconds.
    /// Pure; its cost does not grow with rules that can't match.
    pub fn decide(&self, caller: &Workload, request: &Request, now: i64) -> Decision {
        self.decide_at(self.mode, caller, request, now)
    }

    /// The same, in the mode of the endpoint that was dialled.
    pub fn decide_at(
        &self,
        mode: Mode,
        caller: &Workload,
        request: &Request,
        now: i64,
    ) -> Decision {
        let asked = self.asked(request);
        let denies = self.denies(caller, &asked, now);
        if let Some(rule) = denies.enforced {
            return Decision::Deny(denial(DenyReason::DenyRule, Some(&rule.rule), caller));
        }
        let would_deny = denies
            .audited
            .map(|rule| denial(DenyReason::DenyRule, Some(&rule.rule), caller));
        match self.granted(caller, request, &asked, now) {
            Granted::Grant(matched, found, grant) => Decision::Allow(Permit {
                workload: matched.name.clone(),
                rule: found.allow.rule.clone(),
                grant,
                limit: found.allow.limit,
                selectors: matched.selectors.clone(),
                needs_recheck: matched.needs_recheck || denies.spared_by_recheck,
                would_deny,
            }),
            Granted::Refusal(reason, passes) => {
                let refusal = denial(reason, None, caller);
                if mode < Mode::Enforce && passes {
                    let spared = denies.spared_by_recheck;
                    return Decision::Allow(self.let_through(caller, refusal, spared));
                }
                Decision::Deny(refusal)
            }
        }
    }

    fn let_through(&self, caller: &Workload, refusal: Denial, needs_recheck: bool) -> Permit {
        let first = caller.matched.first();
        Permit {
            workload: first.map_or_else(|| self.nobody.clone(), |m| m.name.clone()),
            rule: self.audit_mode.clone(),
            grant: Grant::Forward { identity: None },
            limit: None,
            selectors: first.map_or_else(|| Arc::from([]), |m| m.selectors.clone()),
            needs_recheck,
            would_deny: Some(refusal),
        }
    }

    pub(crate) fn asked<'a>(&self, request: &'a Request) -> Asked<'a> {
        match request {
            Request::Read {
                cloud,
                path,
                subtree,
            } => Asked::Path {
                access: Access::Read,
                cloud: *cloud,
                path: folded(*cloud, path),
                subtree: *subtree,
            },
            Request::Write { cloud, path } => Asked::Path {
                access: Access::Write,
                cloud: *cloud,
                path: folded(*cloud, path),
                subtree: false,
            },
            Request::Credential(ask) => match ask {
                CredentialAsk::AzureToken { resource, .. } => {
                    self.target(Cloud::Azure, Kind::AzureResource, resource)
                }
                CredentialAsk::AwsRole { role } => self.target(Cloud::Aws, Kind::AwsRole, role),
                CredentialAsk::GcpIdentity { audience, .. } => {
                    self.target(Cloud::Gcp, Kind::GcpAudience, audience)
                }
                CredentialAsk::GcpToken { scopes, .. } => Asked::Scopes(scopes),
            },
        }
    }

    fn target(&self, cloud: Cloud, kind: Kind, name: &str) -> Asked<'static> {
        let target = self.targets.find(kind, name);
        let near = target.or_else(|| self.targets.near(kind, name));
        Asked::Target {
            cloud,
            target,
            near,
        }
    }

    fn denies(&self, caller: &Workload, asked: &Asked<'_>, now: i64) -> Denies<'_> {
        let mut denies = Denies::default();
        let mut consider = |id: u32| denies.consider(&self.denies[id as usize], caller, now);
        for id in &caller.denies {
            if asked.denied_by(&self.denies[*id as usize].about) {
                consider(*id);
            }
        }
        match asked {
            Asked::Path {
                access,
                cloud,
                path,
                subtree,
            } => {
                if let Some(trie) = self.deny_paths.get(&(*access, *cloud)) {
                    trie.touching(path, *subtree, &mut consider);
                }
            }
            Asked::Target { cloud, near, .. } => {
                let named = near.and_then(|t| self.deny_targets.get(&t));
                let all = self.deny_tokens.get(cloud);
                let both = named.into_iter().chain(all).flatten();
                both.for_each(|id| consider(*id));
            }
            // No scopes in the request means all that the node has.
            Asked::Scopes([]) => {
                let every = self.deny_scopes.values();
                let every = every.chain(self.deny_tokens.get(&Cloud::Gcp)).flatten();
                every.for_each(|id| consider(*id));
            }
            Asked::Scopes(scopes) => {
                let named = scopes.iter().filter_map(|s| self.deny_scopes.get(s));
                let both = named.chain(self.deny_tokens.get(&Cloud::Gcp)).flatten();
                both.for_each(|id| consider(*id));
            }
        }
        denies
    }

    fn granted<'a>(
        &'a self,
        caller: &'a Workload,
        request: &Request,
        asked: &Asked<'_>,
        now: i64,
    ) -> Granted<'a> {
        let mut best: Option<(&Matched, Found<'_>)> = None;
        let mut ended = false;
        for matched in &caller.matched {
            let Some(found) = self.find(matched.workload, asked, now, &mut ended) else {
                continue;
            };
            best = match best {
                None => Some((matched, found)),
                Some(other) => match prefer(other, (matched, found)) {
                    Some(preferred) => Some(preferred),
                    None => return ambiguous(other.1, found),
                },
            };
        }
        let Some((matched, found)) = best else {
            let reason = match (ended, caller.matched.is_empty()) {
                (true, _) => DenyReason::Expired,
                (false, true) => DenyReason::NoWorkload,
                (false, false) => DenyReason::NoRule,
            };
            return Granted::Refusal(reason, true);
        };
        for possible in &caller.possible {
            let other = self.find(*possible, asked, now, &mut ended);
            if let Some(other) = other.filter(|other| conflicts(found, *other)) {
                return ambiguous(found, other);
            }
        }
        grant(matched, found, request)
    }

    /// The first rule of the workload that covers the request. Notes where one would, had it not ended.
    fn find(
        &self,
        workload: u32,
        asked: &Asked<'_>,
        now: i64,
        ended: &mut bool,
    ) -> Option<Found<'_>> {
        let mut live = |id: u32| {
            effort::one();
            let allow = &self.allows[id as usize];
            let alive = allow.until.is_none_or(|until| now < until);
            *ended |= !alive;
            alive.then_some(allow)
        };
        let found = |allow| Found {
            allow,
            audience: None,
        };
        match asked {
            Asked::Path {
                access,
                cloud,
                path,
                subtree,
            } => {
                let mut first: Option<u32> = None;
                let trie = self.paths.get(&(workload, *access, *cloud))?;
                trie.covering(path, *subtree, &mut |id| {
                    if first.is_none_or(|f| id < f) && live(id).is_some() {
                        first = Some(id);
                    }
                });
                first.and_then(live).map(found)
            }
            Asked::Target { target, .. } => {
                let grants = self.tokens.get(&(workload, (*target)?))?;
                grants.iter().find_map(|grant| {
                    let audience = Some(&grant.audience);
                    live(grant.allow).map(|allow| Found { allow, audience })
                })
            }
            Asked::Scopes(scopes) => {
                let all = self.scopes.get(&workload)?.iter();
                let covers = |id: &&u32| self.allows[**id as usize].about.covers_scopes(scopes);
                all.filter(covers).find_map(|id| live(*id)).map(found)
            }
        }
    }
}

impl PolicySet {
    /// Whether one allow, by itself, covers the request and hasn't ended.
    pub(crate) fn covers(&self, id: u32, asked: &Asked<'_>, now: i64) -> bool {
        let allow = &self.allows[id as usize];
        let alive = allow.until.is_none_or(|until| now < until);
        let covers = match asked {
            Asked::Path {
                access,
                cloud,
                path,
                subtree,
            } => allow
                .about
                .paths
                .iter()
                .filter(|p| (p.access, p.cloud) == (*access, *cloud))
                .any(|p| p.path.covers(path, *subtree)),
            Asked::Target { target, .. } => target
                .and_then(|target| self.tokens.get(&(allow.workload, target)))
                .is_some_and(|grants| grants.iter().any(|grant| grant.allow == id)),
            Asked::Scopes(scopes) => allow.about.covers_scopes(scopes),
        };
        alive && covers
    }
}

impl About {
    /// No scopes in a request means all that the node has: no list of a rule covers that.
    fn covers_scopes(&self, scopes: &[Arc<str>]) -> bool {
        effort::one();
        let granted = |scope| {
            self.token
                .as_ref()
                .is_some_and(|t| t.scopes.contains(scope))
        };
        !scopes.is_empty() && scopes.iter().all(granted)
    }
}

/// The denies that hold for a request.
#[derive(Default)]
struct Denies<'a> {
    enforced: Option<&'a DenyRule>,
    audited: Option<&'a DenyRule>,
    spared_by_recheck: bool,
}

impl<'a> Denies<'a> {
    fn consider(&mut self, rule: &'a DenyRule, caller: &Workload, now: i64) {
        effort::one();
        if rule.until.is_some_and(|until| until <= now) {
            return;
        }
        if let Some(sparing) = rule.spares(caller) {
            self.spared_by_recheck |= sparing.needs_recheck && !rule.audit;
            return;
        }
        let place = if rule.audit {
            &mut self.audited
        } else {
            &mut self.enforced
        };
        let first = |other: &DenyRule| {
            (&rule.rule.file, rule.rule.line) < (&other.rule.file, other.rule.line)
        };
        if place.is_none_or(first) {
            *place = Some(rule);
        }
    }
}

impl DenyRule {
    /// The workload of the caller for which this deny makes an exception; one that is certain without the executable first.
    pub(crate) fn spares<'w>(&self, caller: &'w Workload) -> Option<&'w Matched> {
        let spared = caller
            .matched
            .iter()
            .filter(|m| self.except.binary_search(&m.workload).is_ok());
        spared.min_by_key(|m| m.needs_recheck)
    }
}

/// Which of two workloads' rules answers, if they don't contradict each other: a configured document before a forward.
fn prefer<'a>(
    a: (&'a Matched, Found<'a>),
    b: (&'a Matched, Found<'a>),
) -> Option<(&'a Matched, Found<'a>)> {
    match (&a.1.allow.document, &b.1.allow.document) {
        (Some(x), Some(y)) if x != y => None,
        (None, Some(_)) => Some(b),
        _ if identity(a) != identity(b) => None,
        _ => Some(a),
    }
}

/// Who a credential would be for: the identity, and the `sub` of what is minted.
fn identity<'a>((matched, found): (&'a Matched, Found<'a>)) -> Option<(&'a str, Option<&'a str>)> {
    let identity = found.allow.identity.as_ref()?;
    Some((&identity.name, subject(matched, found).map(|s| &**s)))
}

fn subject<'a>(matched: &'a Matched, found: Found<'a>) -> Option<&'a Arc<str>> {
    let identity = found.allow.identity.as_ref()?;
    let bound = || {
        let mut own = matched.subjects.iter();
        own.find(|(of, _)| Arc::ptr_eq(of, identity))
            .map(|(_, subject)| subject)
    };
    found.allow.subject.as_ref().or_else(bound)
}

/// Whether a workload that might match, too, would answer otherwise.
fn conflicts(certain: Found<'_>, possible: Found<'_>) -> bool {
    let (a, b) = (certain.allow, possible.allow);
    if b.document.is_some() && a.document != b.document {
        return true;
    }
    let name = |allow: &AllowRule| allow.identity.as_ref().map(|i| i.name.clone());
    let minted = |allow: &AllowRule| {
        allow
            .identity
            .as_ref()
            .is_some_and(|i| i.origin == Origin::Mint)
    };
    name(a) != name(b) || (minted(a) && (a.subject.is_none() || a.subject != b.subject))
}

fn ambiguous<'a>(a: Found<'_>, b: Found<'_>) -> Granted<'a> {
    let forwarded = |found: Found<'_>| {
        let identity = found.allow.identity.as_ref();
        found.allow.document.is_none() && identity.is_none_or(|i| i.origin == Origin::Forward)
    };
    Granted::Refusal(DenyReason::AmbiguousWorkload, forwarded(a) && forwarded(b))
}

/// The effect of a rule, its identity's pin checked.
fn grant<'a>(matched: &'a Matched, found: Found<'a>, request: &Request) -> Granted<'a> {
    let Some(identity) = &found.allow.identity else {
        let document = found.allow.document.clone();
        let grant = document.map_or(Grant::Forward { identity: None }, Grant::Fixed);
        return Granted::Grant(matched, found, grant);
    };
    let forwards = identity.origin == Origin::Forward;
    if !pinned(identity, request) {
        return Granted::Refusal(DenyReason::OtherIdentity, forwards);
    }
    let grant = match (identity.origin, identity.cloud) {
        (Origin::Forward, _) => Grant::Forward {
            identity: Some(identity.clone()),
        },
        (Origin::Mint, Cloud::Azure) => match (found.audience, subject(matched, found)) {
            (Some(audience), Some(subject)) => Grant::Mint {
                identity: identity.clone(),
                audience: audience.clone(),
                subject: subject.clone(),
            },
            _ => return Granted::Refusal(DenyReason::NotServed, false),
        },
        _ => return Granted::Refusal(DenyReason::NotServed, false),
    };
    Granted::Grant(matched, found, grant)
}

/// Whether the request names no identity, or the rule's own.
fn pinned(identity: &Identity, request: &Request) -> bool {
    let is = |own: &Option<Arc<str>>, asked: &str| {
        own.as_ref()
            .is_some_and(|own| own.eq_ignore_ascii_case(asked))
    };
    match request {
        Request::Credential(CredentialAsk::AzureToken { selector, .. }) => match selector {
            None => true,
            Some(AzureIdentity::ClientId(id)) => is(&identity.client_id, id),
            Some(AzureIdentity::ObjectId(id)) => is(&identity.object_id, id),
            Some(AzureIdentity::ResourceId(id)) => is(&identity.resource_id, id),
        },
        Request::Credential(
            CredentialAsk::GcpToken { account, .. } | CredentialAsk::GcpIdentity { account, .. },
        ) => &**account == "default" || is(&identity.account, account),
        _ => true,
    }
}

fn denial(reason: DenyReason, rule: Option<&Arc<RuleRef>>, caller: &Workload) -> Denial {
    Denial {
        reason,
        rule: rule.cloned(),
        workloads: caller.names(),
    }
}

/// Azure's metadata paths don't tell cases apart; neither may a deny.
fn folded(cloud: Cloud, path: &str) -> Cow<'_, str> {
    if cloud == Cloud::Azure && path.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(path.to_ascii_lowercase())
    } else {
        Cow::Borrowed(path)
    }
}
