//! The files as written: every key with its place, nothing resolved. Serialising it prints TOML that reads back as the same
//! policy. Never asks whether what is written makes sense; that is [`mod@super::compile`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::Origin;
use super::diagnostic::Place;
use super::settings::{Mode, OtherTraffic};
use crate::request::Cloud;

/// A value and where it stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

pub(crate) type Text = At<Arc<str>>;

/// All sources together. The main file's sections are in it once.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Files {
    #[serde(skip)]
    pub(crate) include: Vec<Text>,
    pub(crate) host: Host,
    pub(crate) endpoints: BTreeMap<Arc<str>, At<Mode>>,
    pub(crate) other_traffic: BTreeMap<Arc<str>, At<OtherTraffic>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<At<Issuer>>,
    pub(crate) audit: Audit,
    pub(crate) proxy: Proxy,
    pub(crate) hardening: Hardening,
    #[serde(skip_serializing_if = "Trust::is_unsaid")]
    pub(crate) trust: Trust,
    pub(crate) identity: Named<IdentityEntry>,
    pub(crate) document: Named<DocumentEntry>,
    pub(crate) resource: Named<ResourceEntry>,
    pub(crate) endpoint: Vec<EndpointEntry>,
    pub(crate) guest: Vec<GuestEntry>,
    pub(crate) lifeline: Vec<LifelineEntry>,
    pub(crate) workload: Vec<WorkloadEntry>,
    pub(crate) deny: Vec<DenyEntry>,
}

/// `[kind.NAME]` tables, in the order of the sources; a name that comes twice is found by compile.
#[derive(Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(Text, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, entry)| (&name.value, entry)))
    }
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Host {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_domain: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<Text>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Trust {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) roots: Option<Text>,
}

impl Trust {
    /// An empty section would lack its key.
    const fn is_unsaid(&self) -> bool {
        self.roots.is_none()
    }
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Issuer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<Text>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Audit {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<Text>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Proxy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<At<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<Text>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Hardening {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uplinks: Option<At<Vec<Text>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) raw_sockets_for: Option<At<Vec<Text>>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EndpointEntry {
    pub(crate) name: Text,
    pub(crate) cloud: At<Cloud>,
    pub(crate) address: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<At<Mode>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) other_traffic: Option<At<OtherTraffic>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct GuestEntry {
    pub(crate) interface: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) address: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<Text>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LifelineEntry {
    pub(crate) executable: Text,
    pub(crate) unit: Text,
    pub(crate) endpoint: Text,
}

#[derive(Debug, Serialize)]
pub(crate) struct IdentityEntry {
    pub(crate) cloud: At<Cloud>,
    pub(crate) source: At<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object_id: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource_id: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_id: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sts: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_name: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lifetime: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_policy: Option<At<serde_json::Value>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<Arc<str>, Text>,
    #[serde(flatten)]
    pub(crate) federation: FederationEntry,
}

/// What an identity says that is federated.
#[derive(Debug, Default, Serialize)]
pub(crate) struct FederationEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authority: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assertion: Option<At<AssertionEntry>>,
}

/// Where an assertion comes from that the embedded issuer doesn't sign.
#[derive(Debug, Serialize)]
pub(crate) struct AssertionEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<Text>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DocumentEntry {
    pub(crate) cloud: At<Cloud>,
    pub(crate) instance: At<serde_json::Value>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ResourceEntry {
    pub(crate) cloud: At<Cloud>,
    pub(crate) names: Vec<Text>,
}

/// A list of selectors; `None` where the key isn't written, for an empty list is an error of its own.
pub(crate) type SelectorList = Option<At<Vec<Text>>>;

#[derive(Debug, Serialize)]
pub(crate) struct WorkloadEntry {
    pub(crate) name: Text,
    /// Whether it says whom it selects at all, legibly or not.
    #[serde(skip)]
    pub(crate) selects: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selectors: SelectorList,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) any_of: Option<At<Vec<At<Vec<Text>>>>>,
    pub(crate) allow: Vec<AllowEntry>,
}

/// What allow and deny rules have in common: the words about them, and what they speak of.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RuleEntry {
    #[serde(skip)]
    pub(crate) place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) read: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) write: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<At<TokenEntry>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TokenEntry {
    pub(crate) cloud: At<Cloud>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) role: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) scopes: Vec<Text>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audience: Vec<Text>,
}

#[derive(Debug, Serialize)]
pub(crate) struct AllowEntry {
    #[serde(flatten)]
    pub(crate) rule: RuleEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) imdsv1: Option<At<bool>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DenyEntry {
    #[serde(flatten)]
    pub(crate) rule: RuleEntry,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selectors: SelectorList,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) any_of: Option<At<Vec<At<Vec<Text>>>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) except: Vec<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<At<Mode>>,
}
