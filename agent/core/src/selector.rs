//! Selectors: SPIRE's vocabulary (`unix:uid:1000`, `systemd:id:billing.service`), and what a caller has of them.
//! Owns the names and the evidence per name; never decides what a selector is worth (see [`crate::policy`]).

use std::collections::BTreeMap;
use std::fmt;
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

/// Every key with its name, in the order of the enum.
const NAMES: [(Key, &str); 22] = [
    (Key::UnixUid, "unix:uid"),
    (Key::UnixUser, "unix:user"),
    (Key::UnixGid, "unix:gid"),
    (Key::UnixGroup, "unix:group"),
    (Key::UnixSupplementaryGid, "unix:supplementary_gid"),
    (Key::UnixSupplementaryGroup, "unix:supplementary_group"),
    (Key::UnixPath, "unix:path"),
    (Key::UnixSha256, "unix:sha256"),
    (Key::CgroupPath, "cgroup:path"),
    (Key::SystemdId, "systemd:id"),
    (Key::SystemdSlice, "systemd:slice"),
    (Key::SystemdUserUnit, "systemd:user-unit"),
    (Key::UsernsInit, "userns:init"),
    (Key::NetHost, "net:host"),
    (Key::NetIfname, "net:ifname"),
    (Key::VmId, "vm:id"),
    (Key::DockerImageId, "docker:image_id"),
    (Key::DockerImageDigest, "docker:image_digest"),
    (Key::DockerLabel, "docker:label"),
    (Key::K8sNs, "k8s:ns"),
    (Key::K8sSa, "k8s:sa"),
    (Key::K8sPodLabel, "k8s:pod-label"),
];

impl Key {
    /// How many keys there are: the length of a table indexed by `key as usize`.
    pub const COUNT: usize = NAMES.len();

    /// Every key.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(key, _)| *key)
    }

    /// Its name, e.g. `unix:uid`.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// The key of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(key, _)| *key)
    }

    /// Whether the selector is its key alone, without a value (`userns:init`).
    pub fn is_flag(self) -> bool {
        matches!(self, Self::UsernsInit | Self::NetHost)
    }

    /// Whether one caller may have several values of it. A template variable can't be bound by such a key: which
    /// value it takes would be an accident.
    pub fn many(self) -> bool {
        matches!(
            self,
            Self::UnixSupplementaryGid
                | Self::UnixSupplementaryGroup
                | Self::DockerLabel
                | Self::K8sPodLabel
        )
    }

    /// Whether the caller itself, or whoever starts it without being an administrator, can choose the value.
    /// A rule that rests on nothing else is refused.
    pub fn caller_influenced(self) -> bool {
        matches!(
            self,
            Self::UnixPath
                | Self::DockerImageId
                | Self::DockerLabel
                | Self::K8sPodLabel
                | Self::SystemdUserUnit
        )
    }

    /// Whether an attestor for it exists in this version. Evidence of the others is always unavailable.
    pub fn attested(self) -> bool {
        matches!(
            self,
            Self::UnixUid
                | Self::UnixUser
                | Self::UnixGid
                | Self::UnixGroup
                | Self::UnixSupplementaryGid
                | Self::UnixSupplementaryGroup
                | Self::UnixPath
                | Self::UnixSha256
                | Self::CgroupPath
                | Self::SystemdId
                | Self::SystemdSlice
                | Self::SystemdUserUnit
                | Self::UsernsInit
                | Self::NetHost
                | Self::NetIfname
                | Self::VmId
        )
    }

    /// Whether the selector speaks of the executable: it holds only while the caller still runs it.
    pub fn rests_on_executable(self) -> bool {
        matches!(self, Self::UnixPath | Self::UnixSha256)
    }

    /// Whether it may cease to hold while ids and cgroup of the process stay: the executable's, and supplementary groups.
    pub fn needs_recheck(self) -> bool {
        let groups = matches!(
            self,
            Self::UnixSupplementaryGid | Self::UnixSupplementaryGroup
        );
        groups || self.rests_on_executable()
    }

    /// Whether its values are paths, so that whole-segment globs mean something.
    pub fn is_path(self) -> bool {
        matches!(self, Self::UnixPath | Self::CgroupPath)
    }

    /// Splits `unix:uid:1000` into key and value; the value may hold colons.
    pub fn split(selector: &str) -> Option<(Self, &str)> {
        if let Some(flag) = Self::from_name(selector).filter(|key| key.is_flag()) {
            return Some((flag, ""));
        }
        let second = selector.char_indices().filter(|(_, c)| *c == ':').nth(1)?.0;
        let key = Self::from_name(&selector[..second])?;
        let value = &selector[second + 1..];
        (!key.is_flag() && !value.is_empty()).then_some((key, value))
    }

    /// The selector with this value, as SPIRE prints it.
    pub fn with(self, value: &str) -> String {
        if self.is_flag() {
            self.name().to_owned()
        } else {
            format!("{}:{value}", self.name())
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What attestation found about one caller: for each key, its values (several for supplementary groups).
/// A key that is not in the map is [`Evidence::Absent`], or unavailable where nothing can attest it ([`Key::attested`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Selectors(pub BTreeMap<Key, Evidence<Vec<Arc<str>>>>);

/// A selector string that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No key of that name, or no value.
    #[error("`{0}` is not a selector: write TYPE:KEY:VALUE, for example unix:uid:1000")]
    NotASelector(String),
}

impl Selectors {
    /// Adds a value that was found. A key that was unavailable stays so: half an answer is no answer.
    pub fn found(&mut self, key: Key, value: impl Into<Arc<str>>) {
        let value = value.into();
        match self.0.get_mut(&key) {
            Some(Evidence::Present(values)) => values.push(value),
            Some(Evidence::Unavailable(_)) => {}
            Some(Evidence::Absent) | None => {
                self.0.insert(key, Evidence::Present(vec![value]));
            }
        }
    }

    /// Notes that a key could not be attested, and why. What was found of it before is dropped.
    pub fn unavailable(&mut self, key: Key, why: impl Into<Arc<str>>) {
        self.0.insert(key, Evidence::Unavailable(why.into()));
    }

    /// The values of a key that were really found.
    pub fn present(&self, key: Key) -> &[Arc<str>] {
        match self.0.get(&key) {
            Some(Evidence::Present(values)) => values,
            _ => &[],
        }
    }

    /// Whether nobody can say if the caller has this key: an attestor failed, or there is none.
    pub fn is_unavailable(&self, key: Key) -> bool {
        match self.0.get(&key) {
            Some(Evidence::Unavailable(_)) => true,
            Some(_) => false,
            None => !key.attested(),
        }
    }

    /// Reads the form of the command line: selectors separated by white space. What isn't named is absent.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut selectors = Self::default();
        for word in text.split_whitespace() {
            let (key, value) =
                Key::split(word).ok_or_else(|| SelectorError::NotASelector(word.to_owned()))?;
            selectors.found(key, value);
        }
        Ok(selectors)
    }

    /// Every selector that was found, as SPIRE prints them.
    pub fn strings(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(key, evidence)| {
            let values = evidence.present().map_or(&[][..], Vec::as_slice);
            values.iter().map(|value| key.with(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_key() {
        for (at, (key, name)) in NAMES.iter().enumerate() {
            assert_eq!(*key as usize, at);
            assert_eq!(Key::from_name(name), Some(*key));
        }
    }

    #[test]
    fn strings_are_spires() {
        let all = "unix:uid:1000 docker:label:a:b userns:init";
        let parsed = Selectors::parse(all).unwrap();
        assert_eq!(
            parsed.strings().collect::<Vec<_>>(),
            ["unix:uid:1000", "userns:init", "docker:label:a:b"]
        );
        assert_eq!(parsed.present(Key::DockerLabel)[0].as_ref(), "a:b");
        for bad in ["unix:uid", "unix:uid:", "unix", "nope:a:b", "userns:init:x"] {
            assert!(Selectors::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn half_an_answer_is_none() {
        let mut selectors = Selectors::default();
        selectors.found(Key::UnixSupplementaryGid, "4");
        selectors.unavailable(Key::UnixSupplementaryGid, "gone");
        selectors.found(Key::UnixSupplementaryGid, "5");
        assert!(selectors.is_unavailable(Key::UnixSupplementaryGid));
        assert!(selectors.is_unavailable(Key::K8sNs));
        assert!(!selectors.is_unavailable(Key::UnixUid));
    }
}
