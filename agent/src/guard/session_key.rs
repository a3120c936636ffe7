//! The key of the proxy's session tokens, kept in the run directory, so that a restart of the agent ends nobody's session: the
//! Rust SDK goes on with the token that it has for hours, whatever it is told. Gone with the run directory at the next boot;
//! the boot's id is part of every token anyway.
//!
//! It is no signing key: a session token grants nothing. Whoever has it could spare itself a PUT.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::GuardError;
use crate::sys::memfd;

const FILE: &str = "session-key";
const KEY_LEN: usize = 32;
/// random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The key, and the boot's id behind it.
pub(super) struct SessionKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl SessionKey {
    /// The one of this run directory; made where there is none.
    pub(super) fn open(run: &Path) -> Result<Self, GuardError> {
        let path = run.join(FILE);
        let failed = |source| GuardError::Path {
            path: path.clone(),
            source,
            remedy: "remove it: clients then get new session tokens",
        };
        let key = load(&path).map_err(failed)?;
        let key = key.map_or_else(|| make(&path), Ok).map_err(failed)?;
        let boot = boot().map_err(|source| GuardError::Path {
            path: BOOT_ID.into(),
            source,
            remedy: "mount /proc",
        })?;
        let mut secret = Zeroizing::new(Vec::with_capacity(KEY_LEN + boot.len()));
        secret.extend_from_slice(&key);
        secret.extend_from_slice(&boot);
        Ok(Self(secret))
    }

    /// A file of it for one proxy: where one has read it, another would find its end.
    pub(super) fn file(&self) -> std::io::Result<OwnedFd> {
        memfd::sealed("imds-guard-session", &self.0)
    }
}

/// The key that is there; none where there is no file, or one that others could have read or that is no key.
fn load(path: &Path) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let is = file.metadata()?;
    let ours = is.uid() == nix::unistd::geteuid().as_raw() && is.mode() & 0o077 == 0;
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
    file.take(KEY_LEN as u64 + 1).read_to_end(&mut key)?;
    if ours && is.is_file() && key.len() == KEY_LEN {
        return Ok(Some(key));
    }
    tracing::warn!(path = %path.display(), "is no session key of ours: replaced, clients get new session tokens");
    std::fs::remove_file(path)?;
    Ok(None)
}

fn make(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut key = Zeroizing::new(vec![0; KEY_LEN]);
    aws_lc_rs::rand::fill(&mut key).map_err(|_| std::io::Error::other("no random numbers"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&key)?;
    Ok(key)
}

/// 16 bytes that are of this boot alone.
fn boot() -> std::io::Result<[u8; 16]> {
    let text = std::fs::read_to_string(BOOT_ID)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).map_err(std::io::Error::other)?;
    Ok(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(run: &Path) -> Vec<u8> {
        let key = SessionKey::open(run).unwrap();
        memfd::read(key.file().unwrap(), 1024).unwrap();
        memfd::read(key.file().unwrap(), 1024).unwrap()
    }

    #[test]
    fn it_is_the_same_after_a_restart_and_another_elsewhere() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = secret(one.path());
        assert_eq!(first.len(), KEY_LEN + 16);
        assert_eq!(secret(one.path()), first);
        let other = secret(two.path());
        assert_ne!(first[..KEY_LEN], other[..KEY_LEN]);
        assert_eq!(first[KEY_LEN..], other[KEY_LEN..], "one boot");
        let mode = std::fs::metadata(one.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn one_that_others_could_read_is_replaced_and_so_is_what_is_no_key() {
        let run = tempfile::tempdir().unwrap();
        let first = secret(run.path());
        let file = run.path().join(FILE);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let second = secret(run.path());
        assert_ne!(second, first);
        std::fs::write(&file, "short").unwrap();
        assert_ne!(secret(run.path()), second);
    }

    #[test]
    fn a_link_is_not_followed() {
        let run = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", run.path().join(FILE)).unwrap();
        assert!(SessionKey::open(run.path()).is_err());
    }
}
