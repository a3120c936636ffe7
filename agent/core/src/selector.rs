//! Selectors: SPIRE's vocabulary (`unix:uid:1000`, `systemd:id:billing.service`), and what a caller has of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::evidence::Evidence;

/// The kinds of selector that exist. Names are SPIRE's where SPIRE has one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[expect(
    missing_docs,
    reason = "each variant is its selector's name; `Key::name` spells it"
)]
pub enum Key {
    UnixUid,
    UnixUser,
    UnixGid,
    UnixGroup,
    UnixSupplementaryGid,
    UnixSupplementaryGroup,
    UnixPath,
    UnixSha256,
    CgroupPath,
    SystemdId,
    SystemdSlice,
    SystemdUserUnit,
    UsernsInit,
    NetHost,
    NetIfname,
    VmId,
    DockerImageId,
    DockerImageDigest,
    DockerLabel,
    K8sNs,
    K8sSa,
    K8sPodLabel,
}

/// What attestation found about one caller: for each key, its values (several for supplementary groups).
/// A key that is not in the map is [`Evidence::Absent`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors(pub BTreeMap<Key, Evidence<Vec<Arc<str>>>>);
