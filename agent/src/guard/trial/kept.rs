//! The trial's file: in the state directory, root's alone, written whole or not at all, with a digest over all of it at its end.
//! One that is cut, altered or open to others is damaged: it is moved aside and told.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Trial;

/// Its name in the state directory.
const FILE: &str = "trial";
/// Files of a policy, JSON around them.
const SIZE_LIMIT: u64 = 256 << 20;
/// First word of the file; another layout gets another.
const FORMAT: &str = "imds-guard-trial-1";

/// Where a trial outlives the process.
#[derive(Debug)]
pub(in crate::guard) struct Kept {
    directory: PathBuf,
}

impl Kept {
    /// In this state directory.
    pub(in crate::guard) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.into(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What is there; `None`: no trial. The error says what is wrong with the file.
    pub(in crate::guard) fn load(&self) -> Result<Option<Trial>, String> {
        let path = self.path();
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let is = file.metadata().map_err(|e| e.to_string())?;
        let own = is.uid() == nix::unistd::geteuid().as_raw() && is.mode() & 0o077 == 0;
        if !is.is_file() || !own {
            return Err("others could have written it".into());
        }
        let mut text = String::new();
        let read = file.take(SIZE_LIMIT).read_to_string(&mut text);
        read.map_err(|e| e.to_string())?;
        parse(&text).map(Some)
    }

    /// Keeps it: when this returns it is on the disk.
    ///
    /// # Errors
    /// Where it can't be written; what was there before stays.
    pub(in crate::guard) fn keep(&self, trial: &Trial) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let aside = self.directory.join(format!("{FILE}.new"));
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(print(trial)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, self.path())?;
        self.settle()
    }

    /// There is no trial any more.
    ///
    /// # Errors
    /// Where it can't be removed.
    pub(in crate::guard) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(self.path()) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => self.settle(),
        }
    }

    /// Moves a damaged file aside, for whoever wants to look at it.
    pub(in crate::guard) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.directory.join(format!("{FILE}.damaged"));
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }

    fn settle(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

fn digest(body: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
    digest.as_ref().iter().fold(String::new(), hex)
}

fn print(trial: &Trial) -> io::Result<String> {
    let body = serde_json::to_string(trial)?;
    let digest = digest(&body);
    Ok(format!("{FORMAT}\n{body}\n{digest}\n"))
}

fn parse(text: &str) -> Result<Trial, String> {
    let lines: Vec<&str> = text.lines().collect();
    let [FORMAT, body, end] = lines.as_slice() else {
        return Err("it is cut off, or another version wrote it".into());
    };
    if digest(body) != *end {
        return Err("it has been altered".into());
    }
    serde_json::from_str(body).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Earlier, Phase};
    use super::*;

    fn trial() -> Trial {
        Trial {
            digest: "0123456789ab".into(),
            phase: Phase::WentBack { at: "then".into() },
            earlier: Earlier {
                digest: "ba9876543210".into(),
                files: vec![("/etc/x.toml".into(), "a = \"\n\"\n".into())],
            },
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_forgotten_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(&folder.path().join("state"));
        assert_eq!(kept.load(), Ok(None));
        kept.keep(&trial()).unwrap();
        assert_eq!(kept.load(), Ok(Some(trial())));
        let mode = fs::metadata(kept.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        kept.keep(&trial()).unwrap();
        kept.forget().unwrap();
        kept.forget().unwrap();
        assert_eq!(kept.load(), Ok(None));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_damage() {
        let text = print(&trial()).unwrap();
        assert_eq!(parse(&text), Ok(trial()));
        for length in 0..text.len() - 1 {
            assert!(parse(&text[..length]).is_err(), "{length}");
        }
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(parse(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn a_file_that_others_could_have_written_is_damaged_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path());
        kept.keep(&trial()).unwrap();
        fs::set_permissions(kept.path(), fs::Permissions::from_mode(0o620)).unwrap();
        assert!(kept.load().is_err());
        assert!(kept.set_aside().unwrap().exists());
        assert_eq!(kept.load(), Ok(None));
    }
}
