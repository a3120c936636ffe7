//! The guard's own audit records: each signature, and what the kernel noted about connections that it let through. One
//! JSON object per line, each in one write. Never a secret.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use imds_guard_core::audit::{Bypass, Drift, Line, Observed, Revoked, Signed, Trial};
use imds_guard_core::decision::Permit;
use imds_guard_core::policy::Mode;
use imds_guard_ebpf::{Counter, Mode as KernelMode, ObserveEvent};

use super::GuardError;
use crate::caller::Caller;
use crate::intercept::Finding;
use crate::issuer::Minted;

/// Where records go.
#[derive(Debug)]
pub struct Audit {
    to: File,
    /// Its name; none for stdout.
    path: Option<PathBuf>,
}

impl Audit {
    /// The file, appended to and made with mode 0600; or stdout.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(file: Option<&Path>) -> Result<Self, GuardError> {
        let Some(path) = file else {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned();
            return stdout
                .map(|fd| Self {
                    to: fd.into(),
                    path: None,
                })
                .map_err(|source| GuardError::Path {
                    path: "stdout".into(),
                    source,
                    remedy: "name a file with --audit",
                });
        };
        open(path)
            .map(|to| Self {
                to,
                path: Some(path.into()),
            })
            .map_err(|source| GuardError::Path {
                path: path.into(),
                source,
                remedy: "name a file that root can write with --audit",
            })
    }

    /// Opens the file of this name anew, after whoever rotates logs has moved the other one away; for the proxy, too. False
    /// where records go to stdout.
    ///
    /// # Errors
    /// It can't be opened: records go where they went.
    pub(super) fn reopen(&mut self) -> std::io::Result<bool> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        self.to = open(path)?;
        Ok(true)
    }

    /// The file; none: stdout.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// For the proxy.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }

    /// A signature: what was signed, for whom, by which rule.
    ///
    /// # Errors
    /// When it can't be written: then the token must not leave.
    pub(super) fn signed(
        &mut self,
        caller: &Caller,
        permit: &Permit,
        minted: &Minted,
        epoch: u64,
    ) -> std::io::Result<()> {
        let (process, guest) = caller.audited();
        self.write(&Line::Signed(Signed {
            time: jiff::Timestamp::now(),
            jti: &minted.jti,
            sub: &minted.subject,
            file: minted.file.as_deref(),
            aud: &minted.audience,
            exp: minted.exp,
            workload: permit.workload(),
            rule: permit.rule(),
            caller: process,
            guest,
            epoch,
        }))
    }

    /// A connection that was not steered.
    pub(super) fn observed(&mut self, event: &ObserveEvent) -> std::io::Result<()> {
        let mode = match event.mode {
            mode if mode == KernelMode::Observe as u32 => Mode::Observe,
            mode if mode == KernelMode::Audit as u32 => Mode::Audit,
            _ => Mode::Enforce,
        };
        self.write(&Line::Observed(Observed {
            time: jiff::Timestamp::now(),
            mode,
            reason: reason(event.why),
            protocol: event.protocol,
            caller: crate::audit::caller(&event.record),
        }))
    }

    /// Somebody had changed what is in force.
    pub(super) fn drifted(&mut self, finding: &Finding) -> std::io::Result<()> {
        self.write(&Line::Drift(Drift {
            time: jiff::Timestamp::now(),
            what: &finding.what,
            change: finding.change.name(),
            failed: finding.failed.as_deref(),
        }))
    }

    /// A turn of a policy that has to be confirmed.
    pub(super) fn trial(&mut self, trial: Trial<'_>) -> std::io::Result<()> {
        self.write(&Line::Trial(trial))
    }

    /// What was fetched is given no more.
    pub(super) fn revoked(&mut self, revoked: Revoked<'_>) -> std::io::Result<()> {
        self.write(&Line::Revoked(revoked))
    }

    /// Somebody is let pass for a while, or no longer.
    pub(crate) fn bypass(&mut self, bypass: Bypass<'_>) -> std::io::Result<()> {
        self.write(&Line::Bypass(bypass))
    }

    fn write(&mut self, record: &Line<'_>) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.to.write_all(&line)
    }
}

/// The word for what the kernel counted a connection under that it did not steer.
fn reason(why: u32) -> Option<&'static str> {
    match Counter::ALL.get(why as usize)? {
        Counter::NotTcp => Some("not_tcp"),
        Counter::NoListener => Some("no_listener"),
        Counter::ForeignListener => Some("foreign_listener"),
        Counter::Away => Some("away"),
        Counter::Filtered => Some("filtered"),
        Counter::BoundToDevice => Some("bound_to_device"),
        Counter::HandshakeAbandoned => Some("never_arrived"),
        Counter::Bypassed => Some("bypassed"),
        Counter::Lifeline => Some("lifeline"),
        _ => None,
    }
}

impl From<OwnedFd> for Audit {
    fn from(fd: OwnedFd) -> Self {
        Self {
            to: fd.into(),
            path: None,
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use imds_guard_ebpf::CallerRecord;

    use super::*;

    #[test]
    fn a_note_is_one_line_whatever_the_caller_calls_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut audit = Audit::open(Some(file.path())).unwrap();
        let mut record = CallerRecord {
            tgid: 7,
            port: 80,
            address: imds_guard_ebpf::mapped([169, 254, 169, 254]),
            ..CallerRecord::ZERO
        };
        record.comm[..6].copy_from_slice(b"a\n\"}\xff\x1b");
        let event = ObserveEvent {
            record,
            protocol: 6,
            mode: 1,
            why: Counter::Observed as u32,
            reserved: 0,
        };
        audit.observed(&event).unwrap();
        audit.observed(&event).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["caller"]["endpoint"], "169.254.169.254:80");
        assert_eq!(lines[0]["caller"]["pid"], 7);
    }
}
