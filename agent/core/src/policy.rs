//! Policy: files in, decisions out.
//!
//! [`mod@compile`] turns sources into [`Compiled`] or into every [`Diagnostics`] at once; [`includes`] says beforehand which
//! other files the main one wants. [`PolicySet::identify`] once per process, [`PolicySet::decide`] once per request.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::exchange::Url;
use crate::request::Cloud;

mod asked;
mod compile;
mod decide;
pub mod diagnostic;
mod document;
mod effort;
pub mod explain;
pub mod federated;
pub mod federation;
mod fields;
pub mod guest;
mod identify;
mod index;
mod pattern;
mod preset;
mod read;
mod resource;
mod set;
pub mod settings;
mod subject;

pub use compile::{compile, includes};
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity, Source};
pub use identify::Workload;
pub use set::PolicySet;
pub use settings::{Mode, OtherTraffic, Settings};

/// An identity that a rule hands out: `[identity.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// Whose credential it is.
    pub cloud: Cloud,
    /// How the credential is obtained.
    pub origin: Origin,
    /// Azure: client (application) id.
    pub client_id: Option<Arc<str>>,
    /// Azure: object (principal) id.
    pub object_id: Option<Arc<str>>,
    /// Azure: ARM resource id of the managed identity.
    pub resource_id: Option<Arc<str>>,
    /// Azure: tenant id.
    pub tenant_id: Option<Arc<str>>,
    /// AWS: role ARN (assume) or role name (forward).
    pub role: Option<Arc<str>>,
    /// AWS: the region whose STS is asked; none: the instance's own.
    pub region: Option<Arc<str>>,
    /// AWS: an STS of its own in the region's place.
    pub sts: Option<Url>,
    /// AWS: template of the session's name; none: made of workload and host.
    pub session_name: Option<Arc<str>>,
    /// AWS: session policy, as STS gets it.
    pub session_policy: Option<Arc<str>>,
    /// AWS: session tags.
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// GCP: service account.
    pub account: Option<Arc<str>>,
    /// Template of the `sub` claim of what is minted.
    pub subject: Option<Arc<str>>,
    /// Lifetime of what is minted or assumed, or of what the cloud gives for an assertion, in seconds.
    pub lifetime_seconds: u32,
    /// How it is federated, where its source says so.
    pub federation: Option<Arc<federation::Federation>>,
}

impl Identity {
    /// Whether our own issuer signs something for it: then who it is for is its `subject`, and no two callers may share one.
    pub fn is_vouched_for(&self) -> bool {
        match self.origin {
            Origin::Mint => true,
            Origin::Federate => self.federation.as_ref().is_none_or(|f| f.file().is_none()),
            Origin::Forward | Origin::Assume => false,
        }
    }

    /// One of which nothing else is said, for tests.
    #[cfg(test)]
    pub(crate) fn bare(name: &str, cloud: Cloud, origin: Origin) -> Self {
        Self {
            name: name.into(),
            cloud,
            origin,
            client_id: None,
            object_id: None,
            resource_id: None,
            tenant_id: None,
            role: None,
            region: None,
            sts: None,
            session_name: None,
            session_policy: None,
            tags: BTreeMap::new(),
            account: None,
            subject: None,
            lifetime_seconds: 3600,
            federation: None,
        }
    }

    /// The name by which Amazon's metadata service knows its role.
    pub fn role_name(&self) -> Option<&str> {
        self.role.as_deref().map(resource::role_name)
    }
}

/// How an identity's credential is obtained: `source = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// By the embedded issuer.
    Mint,
    /// From the real metadata service.
    Forward,
    /// By exchanging an assertion at the cloud.
    Federate,
    /// By narrowing the node's own identity.
    Assume,
}

/// A configured document for emulated metadata: `[document.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// Whose metadata it is.
    pub cloud: Cloud,
    /// The JSON that stands under `/metadata/instance`.
    pub instance: serde_json::Value,
}

/// What the sources say, compiled.
#[derive(Debug)]
pub struct Compiled {
    /// Configuration.
    pub settings: Settings,
    /// Policy.
    pub policy: PolicySet,
    /// What is allowed but wants a second look.
    pub warnings: Diagnostics,
}

/// Which other files the main file wants, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Includes {
    /// Globs or paths, relative to the main file's folder, each with its place there. Presets are not among them: they are
    /// compiled in.
    pub files: Vec<(Arc<str>, Place)>,
}
