//! Configuration from disk: custody of the files, includes, the epoch. Reads and judges files; what they mean is the
//! business of `imds-guard-core`. Never accepts a file that somebody else than root could have written, and never half a
//! set: either every file is good, or every error is told.

use std::fmt;
use std::path::{Path, PathBuf};

use imds_guard_core::policy::{self, Compiled, Diagnostics, Source};

pub mod custody;
pub mod include;
pub mod trust;

pub use custody::CustodyError;

/// Most files that one configuration may have.
pub const FILES_LIMIT: usize = 4096;

/// A configuration that was accepted.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub compiled: Compiled,
    /// What it was made from: the main file first.
    pub sources: Vec<Source>,
    /// The first 12 hex digits of the SHA-256 of all names and texts: says whether two hosts run the same policy.
    pub digest: String,
}

/// Why a configuration is not accepted. `Display` is what the operator reads.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Files that can't be trusted or read, all of them.
    #[error("{}", Lines(.0))]
    Custody(Vec<CustodyError>),
    /// More files than [`FILES_LIMIT`].
    #[error("{0} files are included, {FILES_LIMIT} is the limit: join some")]
    TooMany(usize),
    /// Files that don't mean anything valid; every error with place and remedy.
    #[error("{0}")]
    Policy(Diagnostics),
}

struct Lines<'a>(&'a [CustodyError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Reads `main` and what it includes, and compiles. `now` is Unix time in seconds.
///
/// # Errors
/// Every reason at once, of the first stage that fails.
pub fn load(main: &Path, hostname: &str, now: i64) -> Result<Loaded, ConfigError> {
    of(read(main)?, hostname, now)
}

/// The same of sources that are at hand.
///
/// # Errors
/// Every reason at once.
pub fn of(sources: Vec<Source>, hostname: &str, now: i64) -> Result<Loaded, ConfigError> {
    let compiled = policy::compile(&sources, hostname, now).map_err(ConfigError::Policy)?;
    let digest = digest(&sources);
    Ok(Loaded {
        compiled,
        sources,
        digest,
    })
}

/// Reads `main` and every file that it includes.
///
/// # Errors
/// As [`load`], without compiling.
pub fn read(main: &Path) -> Result<Vec<Source>, ConfigError> {
    let text = custody::read(main).map_err(|e| ConfigError::Custody(vec![e]))?;
    let source = named(main, text);
    let includes = policy::includes(&source).map_err(ConfigError::Policy)?;
    let folder = main.parent().unwrap_or(Path::new("/"));
    let (mut errors, mut files) = (vec![], Vec::<PathBuf>::new());
    for (pattern, _) in &includes.files {
        match include::expand(folder, pattern) {
            // One file named twice is one file.
            Ok(more) => files.extend(more.into_iter().filter(|f| f != main)),
            Err(error) => errors.push(error),
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    if files.len() > FILES_LIMIT {
        return Err(ConfigError::TooMany(files.len()));
    }
    let mut sources = vec![source];
    for file in files {
        match custody::read(&file) {
            Ok(text) => sources.push(named(&file, text)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(sources)
    } else {
        Err(ConfigError::Custody(errors))
    }
}

fn named(path: &Path, text: String) -> Source {
    Source {
        name: path.display().to_string().into(),
        text: text.into(),
    }
}

fn digest(sources: &[Source]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for source in sources {
        for part in [&source.name, &source.text] {
            // Lengths, so that no two sets of files are the same bytes.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
    }
    let digest = context.finish();
    digest.as_ref()[..6]
        .iter()
        .fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source {
            name: name.into(),
            text: text.into(),
        }
    }

    #[test]
    fn the_digest_sees_names_texts_and_borders() {
        let a = digest(&[source("a", "bc")]);
        assert_eq!(a, digest(&[source("a", "bc")]));
        assert_eq!(a.len(), 12);
        assert_ne!(a, digest(&[source("ab", "c")]));
        assert_ne!(a, digest(&[source("a", "bd")]));
    }

    #[test]
    fn every_bad_file_is_told_at_once() {
        let folder = tempfile::tempdir_in("/root").unwrap();
        let main = folder.path().join("main.toml");
        std::fs::write(&main, "").unwrap();
        let errors = ConfigError::Custody(vec![
            custody::read(&folder.path().join("gone.toml")).unwrap_err(),
            custody::read(folder.path()).unwrap_err(),
        ]);
        assert_eq!(errors.to_string().lines().count(), 2);
        assert!(custody::read(&main).is_ok());
    }
}
