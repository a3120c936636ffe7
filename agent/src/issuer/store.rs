//! The key's file: made once, 0600, in a directory of mode 0700, bound to the machine. Refuses to read what others could
//! have read or written, and never overwrites a key that it can't use.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::key::Prepared;
use super::machine::MachineError;
use super::{LocalKey, SignError};

const FILE: &str = "issuer-key.json";
/// A key file is about 2 kB.
const SIZE_LIMIT: u64 = 64 * 1024;

/// Why the key can't be used, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory can't be made or used.
    #[error(
        "state directory {0}: {1}: make it writable for root, or name another with --state-dir"
    )]
    Directory(PathBuf, #[source] std::io::Error),
    /// Directory or key are open to others.
    #[error(
        "{path} has mode {mode:04o}: `chmod {wanted:04o} {path}` (and ask who may have read the key)"
    )]
    Mode {
        /// Which.
        path: PathBuf,
        /// As it is.
        mode: u32,
        /// As it has to be.
        wanted: u32,
    },
    /// Directory or key belong to somebody else.
    #[error("{0} belongs to user {1}: `chown root {0}` (and ask who may have read the key)")]
    Owner(PathBuf, u32),
    /// The key file is no file of ours.
    #[error(
        "{0} is not a signing key of imds-guard ({1}): move it away; a new one is made at the next mint"
    )]
    NotAKey(PathBuf, &'static str),
    /// The key file can't be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// The key was made on another machine: this one is a clone, or its identity was changed.
    #[error(
        "{0} was made on another machine (its machine id differs): if this host is a clone, remove the file, and a key of its own is made at the next mint"
    )]
    OtherMachine(PathBuf),
    /// The clock is before the key's time.
    #[error(
        "the clock says {now}, before {created}, when {path} was made: set the clock (`timedatectl`), or wait for time synchronisation"
    )]
    Clock {
        /// The key file.
        path: PathBuf,
        /// Unix seconds, as the clock says.
        now: i64,
        /// Unix seconds, as the key says.
        created: i64,
    },
    /// The machine has no id.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// No key could be made.
    #[error("no signing key could be made")]
    Generate(#[from] SignError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    machine: String,
    created: i64,
    pkcs8: String,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.pkcs8.zeroize();
    }
}

/// The state directory, and which machine it must belong to.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    machine: String,
}

impl Store {
    /// Makes the directory where it is missing, and checks it.
    pub(super) fn open(directory: &Path, machine: String) -> Result<Self, StoreError> {
        let failed = |e| StoreError::Directory(directory.into(), e);
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
        let is = std::fs::symlink_metadata(directory).map_err(failed)?;
        if !is.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        own(directory, &is, 0o700)?;
        // Found out now and not at the first mint, in the middle of somebody's request.
        let probe = directory.join(".probe");
        File::create(&probe).map_err(failed)?;
        match std::fs::remove_file(&probe) {
            // Another guard that starts at this moment has: who of us gives way is told elsewhere.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        Ok(Self {
            directory: directory.into(),
            machine,
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// The key that is there; `None` where none was ever made.
    pub(super) fn load(&self, now: i64) -> Result<Option<LocalKey>, StoreError> {
        let path = self.path();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::File(path, e)),
        };
        let is = file
            .metadata()
            .map_err(|e| StoreError::File(path.clone(), e))?;
        if !is.is_file() {
            return Err(StoreError::NotAKey(path, "not a regular file"));
        }
        own(&path, &is, 0o600)?;
        let mut text = Zeroizing::new(String::new());
        file.take(SIZE_LIMIT)
            .read_to_string(&mut text)
            .map_err(|e| StoreError::File(path.clone(), e))?;
        self.parse(&text, now).map(Some)
    }

    fn parse(&self, text: &str, now: i64) -> Result<LocalKey, StoreError> {
        let not = |why| StoreError::NotAKey(self.path(), why);
        let file: KeyFile = serde_json::from_str(text).map_err(|_| not("it does not parse"))?;
        if file.version != 1 {
            return Err(not("another version wrote it"));
        }
        if file.machine != self.machine {
            return Err(StoreError::OtherMachine(self.path()));
        }
        self.check_clock(file.created, now)?;
        let pkcs8 = STANDARD.decode(&file.pkcs8).map(Zeroizing::new);
        let pkcs8 = pkcs8.map_err(|_| not("it is not base64"))?;
        LocalKey::from_pkcs8(&pkcs8, file.created).map_err(|_| not("it holds no RSA key"))
    }

    /// Refuses a time before the key's.
    pub(super) fn check_clock(&self, created: i64, now: i64) -> Result<(), StoreError> {
        if now < created {
            return Err(StoreError::Clock {
                path: self.path(),
                now,
                created,
            });
        }
        Ok(())
    }

    /// Makes a key and writes its file, complete or not at all.
    pub(super) fn create(&self, prepared: Prepared, now: i64) -> Result<LocalKey, StoreError> {
        let key = LocalKey::generate(prepared, now)?;
        let file = KeyFile {
            version: 1,
            machine: self.machine.clone(),
            created: now,
            pkcs8: STANDARD.encode(&*key.pkcs8()?),
        };
        let text = Zeroizing::new(serde_json::to_vec(&file).map_err(|_| SignError)?);
        self.write(&text)
            .map_err(|e| StoreError::File(self.path(), e))?;
        Ok(key)
    }

    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        let draft = self.directory.join(format!("{FILE}.new"));
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text)?;
        file.sync_all()?;
        // Never over a key that is there: link fails where rename would replace.
        std::fs::hard_link(&draft, self.path())?;
        std::fs::remove_file(&draft)?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Root's (or whoever we are in a test), and nobody else's to touch.
fn own(path: &Path, is: &std::fs::Metadata, wanted: u32) -> Result<(), StoreError> {
    if is.uid() != nix::unistd::geteuid().as_raw() {
        return Err(StoreError::Owner(path.into(), is.uid()));
    }
    let mode = is.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Mode {
            path: path.into(),
            mode,
            wanted,
        });
    }
    Ok(())
}
