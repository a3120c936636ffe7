//! The audit record of one exchange: begun before anything is looked at, written when dropped, so that exactly one line
//! comes out however the exchange ends. Holds names and numbers, never a secret: no header, no body, no query but the
//! resource that policy was asked about.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use imds_guard_core::decision::{Denial, Permit, RuleRef};
use imds_guard_core::imds::Call;
use imds_guard_core::request::{CredentialAsk, Request};
use imds_guard_ebpf::CallerRecord;
use serde::Serialize;
use tokio::time::Instant;

use super::sink::Sink;

/// How an exchange ended, in one word of the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
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

/// What a credential is known by without being one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fingerprint {
    /// The token's id.
    pub(crate) jti: Arc<str>,
    /// The identity that it is of.
    pub(crate) identity: Arc<str>,
    /// Unix seconds.
    pub(crate) expires: i64,
    /// Whether it was there already.
    pub(crate) cached: bool,
}

/// The record, while its exchange lasts.
#[derive(Debug)]
pub(crate) struct Record {
    sink: Rc<Sink>,
    begun: Instant,
    caller: Option<CallerRecord>,
    pub(crate) epoch: u64,
    pub(crate) call: Option<Rc<Call>>,
    pub(crate) permit: Option<Permit>,
    pub(crate) denial: Option<Denial>,
    pub(crate) credential: Option<Fingerprint>,
    /// A stable name for what is not a denial: of a violation, of what failed.
    pub(crate) reason: Option<&'static str>,
    pub(crate) outcome: Outcome,
    pub(crate) status: u16,
    withdrawn: bool,
}

impl Record {
    /// Begins the record of one exchange with the caller that the kernel recorded, if it did.
    pub(crate) fn begin(sink: &Rc<Sink>, caller: Option<CallerRecord>, epoch: u64) -> Self {
        Self {
            sink: Rc::clone(sink),
            begun: Instant::now(),
            caller,
            epoch,
            call: None,
            permit: None,
            denial: None,
            credential: None,
            reason: None,
            outcome: Outcome::Aborted,
            status: 0,
            withdrawn: false,
        }
    }

    /// The exchange is answered as policy allows.
    pub(crate) fn allowed(&mut self) {
        self.outcome = Outcome::Allowed;
    }

    /// Another record tells of this exchange.
    pub(crate) fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    fn line(&self) -> Line<'_> {
        let (resource, path) = match self.call.as_deref() {
            Some(call) => (resource(&call.request), Some(call.path())),
            None => (None, None),
        };
        Line {
            time: jiff::Timestamp::now(),
            event: "exchange",
            outcome: self.outcome,
            status: self.status,
            reason: self.reason,
            workload: self.permit.as_ref().map(|permit| &**permit.workload()),
            selectors: self.permit.as_ref().map(|permit| &**permit.selectors()),
            rule: self.permit.as_ref().map(|permit| &**permit.rule()),
            denial: self.denial.as_ref(),
            would_deny: self.permit.as_ref().and_then(Permit::would_deny),
            method: self.call.as_deref().map(Call::method),
            path,
            resource,
            credential: self.credential.as_ref(),
            caller: self.caller.as_ref().map(Caller::of),
            epoch: self.epoch,
            latency_us: self.begun.elapsed().as_micros(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.withdrawn {
            return;
        }
        let line = self.line();
        self.sink.append(|to| {
            // Into memory, and a struct of names and numbers always has a JSON form.
            let mark = to.len();
            if serde_json::to_writer(&mut *to, &line).is_err() {
                to.truncate(mark);
                to.extend_from_slice(br#"{"event":"exchange","outcome":"failed"}"#);
            }
        });
    }
}

fn resource(request: &Request) -> Option<&str> {
    match request {
        Request::Credential(CredentialAsk::AzureToken { resource, .. }) => Some(resource),
        Request::Credential(CredentialAsk::AwsRole { role }) => Some(role),
        Request::Credential(CredentialAsk::GcpToken { account, .. }) => Some(account),
        Request::Credential(CredentialAsk::GcpIdentity { audience, .. }) => Some(audience),
        Request::Read { .. } | Request::Write { .. } => None,
    }
}

/// The line as it is written. Its fields are a contract with whoever reads the audit file.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "in_words")]
    time: jiff::Timestamp,
    event: &'static str,
    outcome: Outcome,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selectors: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a RuleRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denial: Option<&'a Denial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'a Denial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Caller<'a>>,
    epoch: u64,
    latency_us: u128,
}

fn in_words<S: serde::Serializer>(time: &jiff::Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

/// The recorded process, in numbers; names of users and groups are for whoever reads.
#[derive(Serialize)]
struct Caller<'a> {
    pid: u32,
    uid: u32,
    gid: u32,
    cgroup_id: u64,
    comm: Cow<'a, str>,
    endpoint: std::net::SocketAddr,
}

impl<'a> Caller<'a> {
    fn of(record: &'a CallerRecord) -> Self {
        let comm = record.comm.split(|byte| *byte == 0).next();
        Self {
            pid: record.tgid,
            uid: record.uid,
            gid: record.gid,
            cgroup_id: record.cgroup_id,
            comm: String::from_utf8_lossy(comm.unwrap_or_default()),
            endpoint: super::policy::dialled(record),
        }
    }
}
