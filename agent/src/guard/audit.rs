//! The guard's own audit records: each signature, and what the kernel noted about connections that it let through. One
//! JSON object per line, each in one write. Never a secret.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use imds_guard_core::decision::Permit;
use imds_guard_ebpf::{CallerRecord, ObserveEvent};
use serde_json::json;

use super::GuardError;
use crate::issuer::Minted;

/// Where records go.
#[derive(Debug)]
pub(super) struct Audit(File);

impl Audit {
    /// The file, appended to and made with mode 0600; or stdout.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, GuardError> {
        let Some(path) = file else {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned();
            return stdout
                .map(|fd| Self(fd.into()))
                .map_err(|source| GuardError::Path {
                    path: "stdout".into(),
                    source,
                    remedy: "name a file with --audit",
                });
        };
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map(Self)
            .map_err(|source| GuardError::Path {
                path: path.into(),
                source,
                remedy: "name a file that root can write with --audit",
            })
    }

    /// For the proxy.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A signature: what was signed, for whom, by which rule.
    ///
    /// # Errors
    /// When it can't be written: then the token must not leave.
    pub(super) fn signed(
        &mut self,
        record: &CallerRecord,
        permit: &Permit,
        minted: &Minted,
        epoch: u64,
    ) -> std::io::Result<()> {
        self.write(&json!({
            "event": "signed",
            "time": time(),
            "jti": minted.jti,
            "sub": minted.subject,
            "aud": minted.audience,
            "exp": minted.exp,
            "workload": permit.workload(),
            "rule": { "name": permit.rule().name, "file": permit.rule().file, "line": permit.rule().line },
            "epoch": epoch,
            "caller": caller(record),
        }))
    }

    /// A connection that was not steered.
    pub(super) fn observed(&mut self, event: &ObserveEvent) -> std::io::Result<()> {
        let record = &event.record;
        let address = IpAddr::from(record.address).to_canonical();
        self.write(&json!({
            "event": "observed",
            "time": time(),
            "to": SocketAddr::new(address, record.port),
            "protocol": event.protocol,
            "mode": if event.mode == imds_guard_ebpf::Mode::Audit as u32 { "audit" } else { "observe" },
            "caller": caller(record),
        }))
    }

    fn write(&mut self, record: &serde_json::Value) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

impl From<OwnedFd> for Audit {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

fn time() -> String {
    jiff::Timestamp::now().to_string()
}

fn caller(record: &CallerRecord) -> serde_json::Value {
    let end = record.comm.iter().position(|b| *b == 0).unwrap_or(16);
    json!({
        "pid": record.tgid,
        "uid": record.uid,
        "gid": record.gid,
        "comm": String::from_utf8_lossy(&record.comm[..end]),
        "cgroup_id": record.cgroup_id,
        "netns": record.netns_cookie,
    })
}

#[cfg(test)]
mod tests {
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
        };
        audit.observed(&event).unwrap();
        audit.observed(&event).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["to"], "169.254.169.254:80");
        assert_eq!(lines[0]["caller"]["pid"], 7);
    }
}
