//! The one error that has an exit code of its own (3): this machine lacks something, and the message says how to get it.

use std::fmt;

/// Something this machine lacks, with what to do about it.
#[derive(Debug)]
pub(crate) struct Lack(String);

impl Lack {
    /// An error that says what is missing and, as commands to copy, how to get it.
    pub(crate) fn error(what: impl fmt::Display, remedy: impl fmt::Display) -> anyhow::Error {
        anyhow::Error::new(Self(format!("{what}\n\nWhat to do:\n{remedy}")))
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lack {}
