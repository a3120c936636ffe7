//! What policy answers. Only [`crate::policy::PolicySet::decide`] makes a [`Permit`], and only a `Permit` reaches an
//! upstream or a credential source: permission is a value that one must hold, not a boolean that one once checked.

use std::sync::Arc;

use crate::policy::{Document, Identity};

/// The verdict on one request.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Go on, within the permit.
    Allow(Permit),
    /// Refuse.
    Deny(Denial),
}

/// Proof that policy allows one request of one workload. Private fields: there is no other way to get one.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub struct Permit {
    pub(crate) workload: Arc<str>,
    pub(crate) rule: Arc<RuleRef>,
    pub(crate) grant: Grant,
    pub(crate) limit: Option<Limit>,
    pub(crate) selectors: Arc<[Arc<str>]>,
    pub(crate) needs_recheck: bool,
    pub(crate) would_deny: Option<Denial>,
    pub(crate) scopes: Option<Arc<[Arc<str>]>>,
}

impl Permit {
    /// Name of the workload that matched.
    pub fn workload(&self) -> &Arc<str> {
        &self.workload
    }
    /// The rule that allows it.
    pub fn rule(&self) -> &Arc<RuleRef> {
        &self.rule
    }
    /// The selectors of the workload that the caller matched, as written in the policy.
    pub fn selectors(&self) -> &Arc<[Arc<str>]> {
        &self.selectors
    }
    /// What may be done.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
    /// The rule's rate limit, if it has one; kept per (workload, rule).
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }
    /// Whether a selector was needed that may end without a change of what the kernel tells of a process cheaply: of the
    /// executable (`unix:path`, `unix:sha256`) or of supplementary groups. Then the guard looks again at each request.
    pub fn needs_recheck(&self) -> bool {
        self.needs_recheck
    }
    /// GCP: the scopes of the caller's rule, where the request names none: with these a token has to be asked for, and these
    /// are what the caller is told that its account has.
    pub fn scopes(&self) -> Option<&Arc<[Arc<str>]>> {
        self.scopes.as_ref()
    }
    /// In audit mode (of the endpoint, or of one deny rule): the denial that enforce mode would give.
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_ref()
    }
}

/// What a permit lets the agent do.
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    /// Hand the (rebuilt) request to the real metadata service. For a credential, `identity` says which one is pinned:
    /// its selector is filled in where the request has none.
    Forward {
        /// The pinned identity. None where the request reads metadata, and where an endpoint in audit mode lets an
        /// ungranted request pass as the caller wrote it.
        identity: Option<Arc<Identity>>,
    },
    /// Answer from a configured document.
    Fixed(Arc<Document>),
    /// Mint a token with the embedded issuer, as this identity, for this audience (the canonical resource).
    Mint {
        /// Which identity.
        identity: Arc<Identity>,
        /// The `aud` claim: as written in the rule, never as written in the request.
        audience: Arc<str>,
        /// The `sub` claim, the identity's template filled in.
        subject: Arc<str>,
    },
    /// Exchange an assertion for this caller at the cloud.
    Federate {
        /// Which identity; its federation says where, and for whom the assertion is.
        identity: Arc<Identity>,
        /// What the cloud's credential is for.
        target: Target,
        /// The assertion's `sub`, the identity's template filled in; none where the assertion is in a file.
        subject: Option<Arc<str>>,
    },
    /// Ask the cloud for a narrower identity than the node's own, with the node's own.
    Assume {
        /// Which identity.
        identity: Arc<Identity>,
        /// What for: AWS the role's ARN, GCP the audience of an identity token; empty for an access token, whose scopes stand
        /// in the request or in [`Permit::scopes`].
        target: Arc<str>,
        /// AWS: the session's name. Empty elsewhere.
        session: Arc<str>,
    },
}

/// What a credential that a cloud gives is for: as the rule writes it, never as the request does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Azure: a resource.
    Resource(Arc<str>),
    /// AWS: the role that the identity names, by its last part.
    Role(Arc<str>),
    /// GCP: an access token with these scopes, each of which a rule names.
    Scopes(Arc<[Arc<str>]>),
    /// GCP: an identity token for this audience.
    Audience(Arc<str>),
}

impl Target {
    /// One text for it, by which kept credentials are told apart.
    pub fn text(&self) -> Arc<str> {
        match self {
            Self::Resource(text) | Self::Role(text) | Self::Audience(text) => Arc::clone(text),
            Self::Scopes(scopes) => scopes.join(",").into(),
        }
    }
}

/// A rule's place and name, for audit and `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct RuleRef {
    /// Its name, given or made up from workload and position.
    pub name: Arc<str>,
    /// File it stands in.
    pub file: Arc<str>,
    /// 1-based line.
    pub line: u32,
}

/// A rate limit: at most `count` in each `per` seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Limit {
    /// How many.
    pub count: u32,
    /// In how many seconds.
    pub per_seconds: u32,
}

/// Why a request is refused. A value, not an error.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Denial {
    /// The stable reason.
    pub reason: DenyReason,
    /// The rule that denies, where one does.
    pub rule: Option<Arc<RuleRef>>,
    /// The workloads that matched (two or more for [`DenyReason::AmbiguousWorkload`]).
    pub workloads: Vec<Arc<str>>,
}

/// Stable reasons of refusal; their codes stand in audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// The kernel recorded nothing about this connection.
    Unattributed,
    /// The process that connected is gone, or is no longer what it was (cgroup, uid, executable).
    CallerChanged,
    /// No workload in the policy matches the caller.
    NoWorkload,
    /// Several workloads match and would give different identities.
    AmbiguousWorkload,
    /// The workload has no rule for this.
    NoRule,
    /// A deny rule matches.
    DenyRule,
    /// The caller names another identity than the one its rule pins.
    OtherIdentity,
    /// The rule's date has passed.
    Expired,
    /// Nothing here can answer this (not configured, not emulated).
    NotServed,
    /// AWS: asked without a session token (IMDSv1), which the rule that covers it doesn't allow.
    Imdsv1,
}

impl DenyReason {
    /// Every reason there is.
    pub const ALL: [Self; 10] = [
        Self::Unattributed,
        Self::CallerChanged,
        Self::NoWorkload,
        Self::AmbiguousWorkload,
        Self::NoRule,
        Self::DenyRule,
        Self::OtherIdentity,
        Self::Expired,
        Self::NotServed,
        Self::Imdsv1,
    ];
}
