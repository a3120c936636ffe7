//! What the proxy needs for its way to the clouds' endpoints, and can't read: trust roots, resolvers, hosts. Read at the start
//! and at each reload, and again when they change. Never parsed here beyond what can be refused: resolvers come from DHCP, that
//! is, from a stranger.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imds_guard_core::seam::OutboundFiles;

use super::GuardError;
use super::policy::Policy;
use crate::config::custody;
use crate::outbound::trust;
use crate::sys::memfd;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// Longest of each, in bytes. What is longer counts as empty, and that is told.
const RESOLV_CONF_BYTES: u64 = 64 << 10;
const HOSTS_BYTES: u64 = 1 << 20;

/// The files, where the policy needs them.
#[derive(Debug)]
pub(super) struct Outbound(Option<Needed>);

#[derive(Debug)]
struct Needed {
    roots: PathBuf,
    seen: [Option<Stamp>; 3],
    files: OutboundFiles,
}

/// By what a file is seen to be another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Outbound {
    /// Reads them all.
    ///
    /// # Errors
    /// Trust roots that can't be used.
    pub(super) fn read(policy: &Policy) -> Result<Self, GuardError> {
        let Some(trust) = &policy.settings.trust else {
            return Ok(Self(None));
        };
        let roots = PathBuf::from(&*trust.roots);
        // Before they are read: what changes meanwhile is seen at the next look.
        let seen = stamps(&roots);
        let pem = policy.roots()?.unwrap_or_default();
        Ok(Self(Some(Needed {
            roots,
            seen,
            files: with_names(pem),
        })))
    }

    /// Whether they are others than before. Roots that have become unusable are told, and those of before stay.
    pub(super) fn look(&mut self) -> bool {
        let Self(Some(needed)) = self else {
            return false;
        };
        let now = stamps(&needed.roots);
        if now == needed.seen {
            return false;
        }
        needed.seen = now;
        let pem = again(&needed.roots).unwrap_or_else(|why| {
            tracing::error!("the trust roots have changed and can't be used: those of before stay in force: {why}");
            Arc::clone(&needed.files.roots)
        });
        let files = with_names(pem);
        let other = files != needed.files;
        if other {
            tracing::info!("trust roots, resolvers or hosts have changed");
        }
        needed.files = files;
        other
    }

    /// For the proxy, where there is anything.
    pub(super) fn file(&self) -> std::io::Result<Option<OwnedFd>> {
        let Self(Some(needed)) = self else {
            return Ok(None);
        };
        let bytes = needed.files.encode().map_err(std::io::Error::other)?;
        memfd::sealed("imds-guard-outbound", &bytes).map(Some)
    }
}

fn again(roots: &Path) -> Result<Arc<str>, String> {
    let pem = custody::read(roots).map_err(|error| error.to_string())?;
    match trust::roots(&pem) {
        Ok(_) => Ok(pem.into()),
        Err(error) => Err(format!("{}: {error}", roots.display())),
    }
}

fn stamps(roots: &Path) -> [Option<Stamp>; 3] {
    [roots, Path::new(RESOLV_CONF), Path::new(HOSTS)].map(|path| {
        let is = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: is.dev(),
            inode: is.ino(),
            size: is.size(),
            changed: (is.mtime(), is.mtime_nsec()),
        })
    })
}

fn with_names(roots: Arc<str>) -> OutboundFiles {
    let resolv_conf = text(RESOLV_CONF, RESOLV_CONF_BYTES);
    OutboundFiles {
        roots,
        interfaces: interfaces(&resolv_conf),
        resolv_conf: resolv_conf.into(),
        hosts: text(HOSTS, HOSTS_BYTES).into(),
    }
}

/// What isn't there is empty, as it is for the C library.
fn text(path: &str, limit: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![];
        let length = File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if length as u64 > limit {
            let why = format!("it is longer than {limit} bytes");
            return Err(std::io::Error::other(why));
        }
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            tracing::warn!(path, %error, "counts as empty for names of the clouds' endpoints");
            String::new()
        }
    }
}

/// Link-local resolvers stand behind an interface: `fe80::1%eth0`.
fn interfaces(resolv_conf: &str) -> Vec<(Arc<str>, u32)> {
    let zones = resolv_conf
        .split_ascii_whitespace()
        .filter_map(|word| Some(word.split_once('%')?.1));
    zones
        .filter_map(|name| Some((name.into(), nix::net::if_::if_nametoindex(name).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn another_file_is_seen_and_one_without_certificates_changes_nothing() {
        let folder = tempfile::tempdir_in("/root").unwrap();
        let roots = folder.path().join("roots.pem");
        let write = |text: &str| {
            std::fs::write(&roots, text).unwrap();
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&roots, mode).unwrap();
        };
        let (first, second) = (authority(), authority());
        write(&first);
        let mut outbound = Outbound(Some(Needed {
            seen: stamps(&roots),
            files: with_names(again(&roots).unwrap()),
            roots: roots.clone(),
        }));
        assert!(!outbound.look());
        write(&format!("{second}{first}"));
        assert!(outbound.look());
        assert!(!outbound.look());
        write("nothing");
        assert!(!outbound.look());
        let kept = outbound.0.as_ref().unwrap().files.roots.clone();
        assert!(kept.starts_with(&second));
        write(&first);
        assert!(outbound.look());
        let bytes = memfd::read(outbound.file().unwrap().unwrap(), 1 << 20).unwrap();
        assert_eq!(&*OutboundFiles::decode(&bytes).unwrap().roots, first);
    }

    #[test]
    fn a_policy_that_needs_none_hands_over_nothing() {
        let mut outbound = Outbound(None);
        assert!(!outbound.look());
        assert!(outbound.file().unwrap().is_none());
    }

    #[test]
    fn interfaces_of_link_local_resolvers_have_numbers() {
        let found = interfaces("nameserver fe80::1%lo\nnameserver fe80::1%gone\nnameserver ::1\n");
        assert_eq!(found, [("lo".into(), 1)]);
    }

    fn authority() -> String {
        let authority = imds_guard_far::Authority::new().unwrap();
        authority.pem().to_owned()
    }
}
