//! A request as the rules see it: its names resolved to the numbers that rules are filed under.
//! Must never: answer; that is [`super::decide`]'s.

use std::borrow::Cow;
use std::sync::Arc;

use super::Origin;
use super::decide::Missed;
use super::effort;
use super::identify::Workload;
use super::pattern::Access;
use super::resource::Kind;
use super::set::{About, AllowRule, PolicySet};
use super::settings::Mode;
use crate::imds::gcp;
use crate::request::{Cloud, CredentialAsk, Request};

/// A request with its names resolved.
#[derive(Debug)]
pub(crate) enum Asked<'a> {
    Path {
        access: Access,
        cloud: Cloud,
        path: Cow<'a, str>,
        subtree: bool,
        imdsv1: bool,
    },
    /// A credential for one target; none: no rule speaks of that target.
    Target {
        cloud: Cloud,
        target: Option<u32>,
        /// The target that it may mean, for denies.
        near: Option<u32>,
        imdsv1: bool,
    },
    /// The role that the caller's own rule names: the target is of the first of them, for denies.
    OwnRole {
        target: Option<u32>,
        imdsv1: bool,
    },
    Scopes(&'a [Arc<str>]),
}

impl Asked<'_> {
    /// Whether it comes without a session token.
    pub(super) const fn imdsv1(&self) -> bool {
        match self {
            Self::Path { imdsv1, .. }
            | Self::Target { imdsv1, .. }
            | Self::OwnRole { imdsv1, .. } => *imdsv1,
            Self::Scopes(_) => false,
        }
    }

    /// Whether a deny about this holds for the request. An allow has to cover it, which is another question for reads.
    pub(crate) fn denied_by(&self, about: &About) -> bool {
        effort::one();
        match self {
            Self::Path {
                access,
                cloud,
                path,
                subtree,
                ..
            } => about
                .paths
                .iter()
                .filter(|p| (p.access, p.cloud) == (*access, *cloud))
                .any(|p| p.path.touches(path, *subtree)),
            Self::Target { cloud, near, .. } => about.denies_target(*cloud, *near),
            Self::OwnRole { target, .. } => about.denies_target(Cloud::Aws, *target),
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

impl PolicySet {
    /// In the mode of the endpoint that was dialled: where nothing is enforced a request goes on as it was written, so what it
    /// leaves out is not filled in.
    pub(crate) fn asked<'a>(
        &'a self,
        mode: Mode,
        caller: &Workload,
        request: &'a Request,
        now: i64,
    ) -> Asked<'a> {
        match request {
            Request::Read {
                cloud,
                path,
                subtree,
                imdsv1,
            } => Asked::Path {
                access: Access::Read,
                cloud: *cloud,
                path: folded(*cloud, path),
                subtree: *subtree,
                imdsv1: *imdsv1,
            },
            Request::Write { cloud, path } => Asked::Path {
                access: Access::Write,
                cloud: *cloud,
                path: folded(*cloud, path),
                subtree: false,
                imdsv1: false,
            },
            Request::Credential(ask) => match ask {
                CredentialAsk::AzureToken { resource, .. } => {
                    self.target(Cloud::Azure, Kind::AzureResource, resource, false)
                }
                CredentialAsk::AwsRole { role, imdsv1 } => match role {
                    Some(role) => self.target(Cloud::Aws, Kind::AwsRole, role, *imdsv1),
                    None => self.own_role(caller, *imdsv1, now),
                },
                CredentialAsk::GcpIdentity { audience, .. } => {
                    self.target(Cloud::Gcp, Kind::GcpAudience, audience, false)
                }
                CredentialAsk::GcpToken { scopes, .. } => {
                    let own = scopes.is_empty().then(|| self.own_scopes(caller, now));
                    // What a rule makes is enforced everywhere; what it passes on is the real server's to fill in.
                    let made = || self.first_scopes_are_made(caller, now);
                    let own = own.flatten().filter(|_| mode == Mode::Enforce || made());
                    Asked::Scopes(own.unwrap_or(scopes))
                }
            },
        }
    }

    /// A role that isn't named is the first that the caller's rules give. Where several workloads would give different ones,
    /// there is no answer, whatever this says: [`PolicySet::granted`] finds that out.
    fn own_role(&self, caller: &Workload, imdsv1: bool, now: i64) -> Asked<'static> {
        let none = Asked::OwnRole {
            target: None,
            imdsv1,
        };
        let mut missed = Missed::default();
        let mut found = caller
            .matched
            .iter()
            .filter_map(|matched| self.find(matched.workload, &none, now, &mut missed));
        let identity = found.next().and_then(|found| found.allow.identity.as_ref());
        let role = identity.and_then(|identity| identity.role.as_ref());
        Asked::OwnRole {
            target: role.and_then(|role| self.targets.find(Kind::AwsRole, role)),
            imdsv1,
        }
    }

    /// Scopes that a request doesn't name are those that the caller's rule gives. Where its workloads, or one that it may be,
    /// give different ones, it has to name them.
    fn own_scopes(&self, caller: &Workload, now: i64) -> Option<&[Arc<str>]> {
        let certain = caller.matched.iter().map(|matched| matched.workload);
        let all = certain.chain(caller.possible.iter().copied());
        let mut found = all.filter_map(|workload| self.first_scopes(workload, now));
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }

    /// Whether those are of a rule whose tokens don't come from the real server.
    fn first_scopes_are_made(&self, caller: &Workload, now: i64) -> bool {
        let made = |allow: &AllowRule| {
            let origin = allow.identity.as_ref().map(|identity| identity.origin);
            origin.is_some_and(|origin| origin != Origin::Forward)
        };
        let mut own = caller.matched.iter();
        own.any(|matched| {
            self.first_of_scopes(matched.workload, now)
                .is_some_and(made)
        })
    }

    /// Of the first rule of a workload that gives an access token and hasn't ended.
    pub(super) fn first_scopes(&self, workload: u32, now: i64) -> Option<&[Arc<str>]> {
        let token = self.first_of_scopes(workload, now)?.about.token.as_ref();
        token.map(|token| token.scopes.as_slice())
    }

    fn first_of_scopes(&self, workload: u32, now: i64) -> Option<&AllowRule> {
        let all = self.scopes.get(&workload)?.iter();
        all.map(|id| &self.allows[*id as usize])
            .find(|allow| allow.until.is_none_or(|until| now < until))
    }

    /// The rules of a workload by which it may know what a read of accounts shows: those that give it a token of one.
    pub(super) fn of_account(&self, workload: u32, asked: &Asked<'_>) -> &[u32] {
        let read = match asked {
            Asked::Path {
                access: Access::Read,
                cloud: Cloud::Gcp,
                path,
                ..
            } => gcp::account_part(path).is_some(),
            _ => false,
        };
        let allows = read.then(|| self.accounts.get(&workload)).flatten();
        allows.map_or(&[], Vec::as_slice)
    }

    fn target(&self, cloud: Cloud, kind: Kind, name: &str, imdsv1: bool) -> Asked<'static> {
        let target = self.targets.find(kind, name);
        let near = target.or_else(|| self.targets.near(kind, name));
        Asked::Target {
            cloud,
            target,
            near,
            imdsv1,
        }
    }
}

impl About {
    /// Whether, as a deny's, it speaks of this target of the cloud, or of every credential of it.
    fn denies_target(&self, cloud: Cloud, target: Option<u32>) -> bool {
        self.token.as_ref().is_some_and(|token| {
            let all = token.targets.is_empty() && token.scopes.is_empty();
            let named = target.is_some_and(|target| token.targets.contains(&target));
            token.cloud == cloud && (all || named)
        })
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
