//! The audit records: their fields, names and words, defined here once. The proxy writes one [`Exchange`] for each request,
//! the guard one [`Signed`] for each token that it mints, one [`Observed`] for each connection that was let through, one
//! [`Drift`] for each change of what is in force, and one [`Trial`] for each turn of a policy that has to be confirmed; whoever
//! begins or ends a bypass one [`Bypass`]. The guard writes one [`Revoked`] for each word of an operator that ends what was given.
//! A contract with whoever reads the file: `agent/docs/audit.md` says what each field means, and a test holds it to this.
//! Data alone, borrowed from what is at hand; never a secret: no header, no body, no query but the resource asked for.

mod repeated;

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::decision::{Denial, RuleRef};
use crate::policy::Mode;

pub use repeated::Repeated;

/// One line of the audit file.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line<'a> {
    /// A request and how it ended.
    Exchange(Exchange<'a>),
    /// A token was minted; written before it leaves the guard.
    Signed(Signed<'a>),
    /// A connection that was not steered.
    Observed(Observed),
    /// Somebody had changed what is in force.
    Drift(Drift<'a>),
    /// A policy is on trial, or no longer.
    Trial(Trial<'a>),
    /// Somebody is let pass for a while, or no longer.
    Bypass(Bypass<'a>),
    /// What was fetched is given no more.
    Revoked(Revoked<'a>),
}

/// How an exchange ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The caller left, or the process ended, before there was an answer.
    Aborted,
    /// Answered as policy allows.
    Allowed,
    /// Policy said no, or the caller was not who it has to be.
    Denied,
    /// Not HTTP, or not the dialect.
    Refused,
    /// Over a rate limit or out of seats.
    Throttled,
    /// Allowed, but something failed.
    Failed,
}

impl Outcome {
    /// Every word there is.
    pub const ALL: [Self; 6] = [
        Self::Aborted,
        Self::Allowed,
        Self::Denied,
        Self::Refused,
        Self::Throttled,
        Self::Failed,
    ];
}

/// One exchange.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange<'a> {
    /// When it ended.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status of the answer; 0 where there was none.
    pub status: u16,
    /// A stable name for what is not a denial: of a violation, of what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Mode of the endpoint that was dialled, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The workload whose rule allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<&'a str>,
    /// The selectors by which the caller is that workload, as the policy writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selectors: Option<&'a [Arc<str>]>,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a RuleRef>,
    /// Why policy refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denial: Option<&'a Denial>,
    /// Why policy would refuse it, were nothing in audit mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<&'a Denial>,
    /// HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// Canonical path, without query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// What a credential was asked for: resource, role, account or audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<&'a str>,
    /// The credential that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'a Fingerprint>,
    /// AWS: asked without a session token; the how manieth such request of its process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imdsv1: Option<u64>,
    /// The process that asked; none where the kernel recorded nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// The guest that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest<'a>>,
    /// Which policy decided: grows with each reload.
    pub epoch: u64,
    /// From the head of the request to the end of the answer, in microseconds.
    pub latency_us: u64,
}

/// One signature.
#[derive(Debug, Clone, Serialize)]
pub struct Signed<'a> {
    /// When.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// The token's id.
    pub jti: &'a str,
    /// Its `sub` claim.
    pub sub: &'a str,
    /// The file that it was read from: somebody else has signed it, and it was handed to the proxy for an exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<&'a str>,
    /// Its `aud` claim.
    pub aud: &'a str,
    /// Its `exp` claim, Unix seconds.
    pub exp: i64,
    /// The workload that it was minted for.
    pub workload: &'a str,
    /// The rule that allows it.
    pub rule: &'a RuleRef,
    /// The process whose connection the proxy showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// The guest whose connection it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest<'a>>,
    /// Which policy decided.
    pub epoch: u64,
}

/// One connection that was not steered: it went to the real service untouched, or, in mode `enforce`, nowhere.
#[derive(Debug, Clone, Serialize)]
pub struct Observed {
    /// When the guard heard of it.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// `observe`; `audit`, where it could not be steered; `enforce`, where it was refused.
    pub mode: Mode,
    /// Why it was not steered, in a stable word; none for mode `observe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub protocol: u32,
    /// Who connected.
    pub caller: Caller,
}

/// What is in force was other than the guard had made it.
#[derive(Debug, Clone, Serialize)]
pub struct Drift<'a> {
    /// When the guard found it.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// The program, map or table that it is about.
    pub what: &'a str,
    /// What had become of it, in a stable word.
    pub change: &'static str,
    /// Why it could not be put back; none: it is as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<&'a str>,
}

/// A policy that has to be confirmed.
#[derive(Debug, Clone, Serialize)]
pub struct Trial<'a> {
    /// When.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// What has become of it, in a stable word.
    pub change: &'static str,
    /// Digest of the policy on trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
    /// Digest of the policy that comes back, or has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<&'a str>,
    /// Until when it can be confirmed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<&'a str>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
    /// Which policy is in force now.
    pub epoch: u64,
}

/// An operator has said so: connections ended, and what was kept is gone. What had been given lives on until its end.
#[derive(Debug, Clone, Serialize)]
pub struct Revoked<'a> {
    /// When.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// Whose; none: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<&'a str>,
    /// Which policy is in force.
    pub epoch: u64,
}

/// Somebody is let pass for a while: the real service is reached as if nothing were guarded.
#[derive(Debug, Clone, Serialize)]
pub struct Bypass<'a> {
    /// When.
    #[serde(serialize_with = "printed")]
    pub time: jiff::Timestamp,
    /// What has become of it, in a stable word.
    pub change: &'static str,
    /// Names it.
    pub id: &'a str,
    /// The workload, or what else was named.
    pub name: &'a str,
    /// Whose connections pass, as selectors.
    pub scopes: &'a [String],
    /// Why, in the words of whoever said so.
    pub reason: &'a str,
    /// When it ends by itself, RFC 3339.
    pub until: &'a str,
    /// The user who had logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
}

/// What a credential is known by without being one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    /// The token's id.
    pub jti: Arc<str>,
    /// The identity that it is of.
    pub identity: Arc<str>,
    /// Unix seconds.
    pub expires: i64,
    /// Whether it was there already.
    pub cached: bool,
}

/// The process as the kernel recorded it at `connect()`, in numbers: names of users and groups are for whoever reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Name of the process, which it chooses itself.
    pub comm: Comm,
    /// cgroup v2 id: the inode number of its directory.
    pub cgroup_id: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// Cookie of the socket: the same for all exchanges of one connection, never used again while the host runs.
    pub connection: u64,
    /// Address and port that were dialled.
    pub endpoint: SocketAddr,
}

/// A guest, as the host knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Guest<'a> {
    /// Its `vm:id`.
    pub id: &'a str,
    /// The host's interface that its packets come in at.
    pub interface: &'a str,
    /// Address and port that its packets bear: its own word.
    pub address: SocketAddr,
    /// Address and port that were dialled.
    pub endpoint: SocketAddr,
}

/// A process name as the kernel keeps it: up to the first NUL, any bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comm(pub [u8; 16]);

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        for chunk in name.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Comm {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

fn printed<S: Serializer>(time: &jiff::Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

#[cfg(test)]
mod tests;
