//! The verdict on one request. Order: denies first, then what the caller's workloads grant; nothing found is a denial.
//! An endpoint in audit mode turns a denial by default into a forward that says so, and no other denial into anything.

use std::sync::Arc;

use super::asked::Asked;
use super::effort;
use super::federation::SubjectLimit;
use super::identify::{Matched, Workload};
use super::set::{About, AllowRule, DenyRule, PolicySet};
use super::settings::Mode;
use super::{Identity, Origin};
use crate::decision::{Decision, Denial, DenyReason, Grant, Permit, RuleRef, Target};
use crate::imds::gcp;
use crate::request::{AzureIdentity, Cloud, CredentialAsk, Request};

/// A rule of a workload that covers the request and hasn't ended.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) allow: &'a AllowRule,
    audience: Option<&'a Arc<str>>,
}

/// Why a workload's rules that speak of a request don't cover it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Missed {
    ended: bool,
    imdsv1: bool,
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
        let asked = self.asked(mode, caller, request, now);
        let denies = self.denies(caller, &asked, now);
        if let Some(rule) = denies.enforced {
            return Decision::Deny(denial(DenyReason::DenyRule, Some(&rule.rule), caller));
        }
        let would_deny = denies
            .audited
            .map(|rule| denial(DenyReason::DenyRule, Some(&rule.rule), caller));
        match self.granted(caller, request, &asked, now) {
            // What is asked for in the node's name is never given where the caller might not have come to the service by itself.
            Granted::Grant(_, _, Grant::Assume { .. }) if mode != Mode::Enforce => {
                Decision::Deny(denial(DenyReason::NotServed, None, caller))
            }
            Granted::Grant(matched, found, grant) => Decision::Allow(Permit {
                scopes: self.scopes_given(matched, found, request, &asked, now),
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
            scopes: None,
            workload: first.map_or_else(|| self.nobody.clone(), |m| m.name.clone()),
            rule: self.audit_mode.clone(),
            grant: Grant::Forward { identity: None },
            limit: None,
            selectors: first.map_or_else(|| Arc::from([]), |m| m.selectors.clone()),
            needs_recheck,
            would_deny: Some(refusal),
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
                ..
            } => {
                if let Some(trie) = self.deny_paths.get(&(*access, *cloud)) {
                    trie.touching(path, *subtree, &mut consider);
                }
            }
            Asked::Target { cloud, near, .. } => {
                self.target_denies(*cloud, *near).for_each(&mut consider);
            }
            Asked::OwnRole { target, .. } => {
                self.target_denies(Cloud::Aws, *target)
                    .for_each(&mut consider);
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

    /// Denies of one target, and of every credential of its cloud, that hold for everyone.
    fn target_denies(&self, cloud: Cloud, target: Option<u32>) -> impl Iterator<Item = u32> {
        let named = target.and_then(|target| self.deny_targets.get(&target));
        let all = self.deny_tokens.get(&cloud);
        named.into_iter().chain(all).flatten().copied()
    }

    fn granted<'a>(
        &'a self,
        caller: &'a Workload,
        request: &Request,
        asked: &Asked<'_>,
        now: i64,
    ) -> Granted<'a> {
        let mut best: Option<(&Matched, Found<'_>)> = None;
        let mut missed = Missed::default();
        for matched in &caller.matched {
            let Some(found) = self.find(matched.workload, asked, now, &mut missed) else {
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
            let reason = match (missed, caller.matched.is_empty()) {
                (Missed { imdsv1: true, .. }, _) => DenyReason::Imdsv1,
                (Missed { ended: true, .. }, _) => DenyReason::Expired,
                (_, true) => DenyReason::NoWorkload,
                (_, false) => DenyReason::NoRule,
            };
            return Granted::Refusal(reason, true);
        };
        for possible in &caller.possible {
            let other = self.find(*possible, asked, now, &mut missed);
            if let Some(other) = other.filter(|other| conflicts(found, *other)) {
                return ambiguous(found, other);
            }
        }
        grant(matched, found, request, asked)
    }

    /// The first rule of the workload that covers the request. Notes where one would, had it not ended, or had the request come
    /// with a session token.
    pub(super) fn find(
        &self,
        workload: u32,
        asked: &Asked<'_>,
        now: i64,
        missed: &mut Missed,
    ) -> Option<Found<'_>> {
        let mut live = |id: u32| {
            effort::one();
            let allow = &self.allows[id as usize];
            let alive = allow.until.is_none_or(|until| now < until);
            let session = allow.imdsv1 || !asked.imdsv1();
            missed.ended |= !alive;
            missed.imdsv1 |= alive && !session;
            (alive && session).then_some(allow)
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
                ..
            } => {
                let token = self.of_account(workload, asked);
                if let Some(token) = token.iter().copied().find_map(&mut live) {
                    return Some(found(token));
                }
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
            Asked::OwnRole { .. } => {
                let all = self.roles.get(&workload)?.iter();
                all.copied().find_map(live).map(found)
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
    /// What [`Permit::scopes`] says.
    fn scopes_given(
        &self,
        matched: &Matched,
        found: Found<'_>,
        request: &Request,
        asked: &Asked<'_>,
        now: i64,
    ) -> Option<Arc<[Arc<str>]>> {
        match (request, asked) {
            (Request::Credential(CredentialAsk::GcpToken { scopes, .. }), Asked::Scopes(own)) => {
                (scopes.is_empty() && !own.is_empty()).then(|| (*own).into())
            }
            (Request::Read { .. }, _) if found.allow.identity.is_some() => {
                let own = self.first_scopes(matched.workload, now);
                Some(own.unwrap_or_default().into())
            }
            _ => None,
        }
    }

    /// Whether one allow, by itself, covers the request and hasn't ended.
    pub(crate) fn covers(&self, id: u32, asked: &Asked<'_>, now: i64) -> bool {
        let allow = &self.allows[id as usize];
        let alive = allow.until.is_none_or(|until| now < until);
        let session = allow.imdsv1 || !asked.imdsv1();
        let covers = match asked {
            Asked::Path {
                access,
                cloud,
                path,
                subtree,
                ..
            } => {
                let paths = allow.about.paths.iter();
                let mut paths = paths.filter(|p| (p.access, p.cloud) == (*access, *cloud));
                self.of_account(allow.workload, asked).contains(&id)
                    || paths.any(|p| p.path.covers(path, *subtree))
            }
            Asked::Target { target, .. } => target
                .and_then(|target| self.tokens.get(&(allow.workload, target)))
                .is_some_and(|grants| grants.iter().any(|grant| grant.allow == id)),
            Asked::OwnRole { .. } => self
                .roles
                .get(&allow.workload)
                .is_some_and(|allows| allows.contains(&id)),
            Asked::Scopes(scopes) => allow.about.covers_scopes(scopes),
        };
        alive && session && covers
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

/// Which of two workloads' rules answers, if they don't contradict each other: a configured document before a forward. A read
/// of accounts may follow a token's rule in one workload and a read's in another: then who has the token has its own answer.
fn prefer<'a>(
    a: (&'a Matched, Found<'a>),
    b: (&'a Matched, Found<'a>),
) -> Option<(&'a Matched, Found<'a>)> {
    match (identity(a).is_some(), identity(b).is_some()) {
        (true, false) => return Some(a),
        (false, true) => return Some(b),
        _ => {}
    }
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
    let has_subject = |allow: &AllowRule| {
        let identity = allow.identity.as_ref();
        identity.is_some_and(|i| match i.origin {
            Origin::Mint | Origin::Federate => i.is_vouched_for(),
            Origin::Assume => i.cloud == Cloud::Aws,
            Origin::Forward => false,
        })
    };
    name(a) != name(b) || (has_subject(a) && (a.subject.is_none() || a.subject != b.subject))
}

fn ambiguous<'a>(a: Found<'_>, b: Found<'_>) -> Granted<'a> {
    let forwarded = |found: Found<'_>| {
        let identity = found.allow.identity.as_ref();
        found.allow.document.is_none() && identity.is_none_or(|i| i.origin == Origin::Forward)
    };
    Granted::Refusal(DenyReason::AmbiguousWorkload, forwarded(a) && forwarded(b))
}

/// The effect of a rule, its identity's pin checked.
fn grant<'a>(
    matched: &'a Matched,
    found: Found<'a>,
    request: &Request,
    asked: &Asked<'_>,
) -> Granted<'a> {
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
        // Only a token for an audience is a statement that an issuer of our own can make.
        (Origin::Mint, Cloud::Gcp) if found.audience.is_none() && !is_read(request) => {
            return Granted::Refusal(DenyReason::NotServed, false);
        }
        // Whose it is: nothing is signed for that.
        (Origin::Mint | Origin::Federate, Cloud::Gcp) if is_read(request) => Grant::Forward {
            identity: Some(identity.clone()),
        },
        (Origin::Mint, Cloud::Azure | Cloud::Gcp) => {
            match (found.audience, subject(matched, found)) {
                (Some(audience), Some(subject)) => Grant::Mint {
                    identity: identity.clone(),
                    audience: audience.clone(),
                    subject: subject.clone(),
                },
                _ => return Granted::Refusal(DenyReason::NotServed, false),
            }
        }
        (Origin::Federate, _) => match federated(identity, matched, found, asked) {
            Some(grant) => grant,
            None => return Granted::Refusal(DenyReason::NotServed, false),
        },
        (Origin::Assume, _) => match assumed(matched, found, identity, request) {
            Some(grant) => grant,
            None => return Granted::Refusal(DenyReason::NotServed, false),
        },
        _ => return Granted::Refusal(DenyReason::NotServed, false),
    };
    Granted::Grant(matched, found, grant)
}

/// What an assertion is exchanged for, and whose it is. None where the cloud would not take it, or can't give such a thing.
fn federated(
    identity: &Arc<Identity>,
    matched: &Matched,
    found: Found<'_>,
    asked: &Asked<'_>,
) -> Option<Grant> {
    let federation = identity.federation.as_ref()?;
    let target = match (identity.cloud, asked) {
        (Cloud::Azure, _) => Target::Resource(found.audience?.clone()),
        (Cloud::Aws, _) => Target::Role(identity.role_name()?.into()),
        (Cloud::Gcp, Asked::Scopes(scopes)) => Target::Scopes(sorted(scopes)),
        (Cloud::Gcp, _) => {
            let _gives = identity.account.as_ref()?;
            Target::Audience(found.audience?.clone())
        }
    };
    let subject = match federation.file() {
        Some(_) => None,
        None => {
            let subject = subject(matched, found)?;
            (subject.len() <= SubjectLimit::of(identity.cloud).bytes).then_some(())?;
            Some(subject.clone())
        }
    };
    Some(Grant::Federate {
        identity: identity.clone(),
        target,
        subject,
    })
}

/// In one order, each once: however a request writes them, they are one target.
fn sorted(scopes: &[Arc<str>]) -> Arc<[Arc<str>]> {
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    scopes.into()
}

/// None: of Azure, and a session whose name would be longer than one can be.
fn assumed(
    matched: &Matched,
    found: Found<'_>,
    identity: &Arc<Identity>,
    request: &Request,
) -> Option<Grant> {
    let grant = |target: Arc<str>, session: Arc<str>| Grant::Assume {
        identity: identity.clone(),
        target,
        session,
    };
    match identity.cloud {
        Cloud::Aws => {
            let session = subject(matched, found)?;
            Some(grant(identity.role.clone()?, session.clone()))
        }
        // Whose it is: nobody is asked for that.
        Cloud::Gcp if is_read(request) => Some(Grant::Forward {
            identity: Some(identity.clone()),
        }),
        Cloud::Gcp => {
            let audience = found.audience.cloned();
            Some(grant(audience.unwrap_or_default(), "".into()))
        }
        Cloud::Azure => None,
    }
}

fn is_read(request: &Request) -> bool {
    matches!(request, Request::Read { .. })
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
        Request::Read {
            cloud: Cloud::Gcp,
            path,
            ..
        } => match gcp::account_part(path) {
            Some((Some(account), _)) => account == "default" || is(&identity.account, account),
            _ => true,
        },
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
