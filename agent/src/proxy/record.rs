//! The audit record of one exchange: begun before anything is looked at, written when dropped, so that exactly one line
//! comes out however the exchange ends. Holds names and numbers, never a secret: no header, no body, no query but the
//! resource that policy was asked about.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use imds_guard_core::audit::{Exchange, Fingerprint, Line, Outcome, Repeated};
use imds_guard_core::decision::{Denial, Permit};
use imds_guard_core::imds::Call;
use imds_guard_core::policy::Mode;
use imds_guard_core::request::{CredentialAsk, Request};
use tokio::time::Instant;

use super::sink::Sink;
use crate::caller::Caller;

/// The record, while its exchange lasts.
#[derive(Debug)]
pub(crate) struct Record {
    sink: Rc<Sink>,
    lines: Option<Rc<Lines>>,
    begun: Instant,
    at: SystemTime,
    caller: Option<Caller>,
    pub(crate) epoch: u64,
    /// Of the endpoint that was dialled.
    pub(crate) mode: Option<Mode>,
    pub(crate) call: Option<Rc<Call>>,
    pub(crate) permit: Option<Rc<Permit>>,
    pub(crate) denial: Option<Denial>,
    pub(crate) credential: Option<Fingerprint>,
    /// AWS, without a session token: the how manieth such request of its process.
    pub(crate) imdsv1: Option<u64>,
    /// A stable name for what is not a denial: of a violation, of what failed.
    pub(crate) reason: Option<&'static str>,
    pub(crate) outcome: Outcome,
    pub(crate) status: u16,
    withdrawn: bool,
}

impl Record {
    /// Begins the record of one exchange with the caller that the kernel tells of, if it does. `lines` is that of the
    /// connection, and of no other: it stands for the caller.
    pub(crate) fn begin(
        sink: &Rc<Sink>,
        caller: Option<Caller>,
        epoch: u64,
        lines: Option<Rc<Lines>>,
    ) -> Self {
        sink.opened();
        Self {
            sink: Rc::clone(sink),
            lines,
            begun: Instant::now(),
            at: SystemTime::now(),
            caller,
            epoch,
            mode: None,
            call: None,
            permit: None,
            denial: None,
            credential: None,
            imdsv1: None,
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

    fn exchange(&self, took: Duration) -> Exchange<'_> {
        let (resource, path) = match self.call.as_deref() {
            Some(call) => (resource(&call.request), Some(call.path())),
            None => (None, None),
        };
        let caller = self.caller.as_ref().map(Caller::audited);
        let (caller, guest) = caller.unwrap_or_default();
        Exchange {
            time: self.time(took),
            outcome: self.outcome,
            status: self.status,
            reason: self.reason,
            mode: self.mode,
            workload: self.permit.as_ref().map(|permit| &**permit.workload()),
            selectors: self.permit.as_ref().map(|permit| &**permit.selectors()),
            rule: self.permit.as_ref().map(|permit| &**permit.rule()),
            denial: self.denial.as_ref(),
            would_deny: self.permit.as_ref().and_then(|permit| permit.would_deny()),
            method: self.call.as_deref().map(Call::method),
            path,
            resource,
            credential: self.credential.as_ref(),
            imdsv1: self.imdsv1,
            caller,
            guest,
            epoch: self.epoch,
            latency_us: us(took),
        }
    }

    /// When it ended, if it took so long: one clock is read at each end, not two.
    fn time(&self, took: Duration) -> jiff::Timestamp {
        let ended = self.at.checked_add(took).unwrap_or(self.at);
        // A clock that is millennia off counts as 1970.
        jiff::Timestamp::try_from(ended).unwrap_or_default()
    }

    /// What decides about all of the line but its time and latency; none where it is not an ordinary success.
    fn likeness(&self) -> Option<Likeness> {
        let plain = self.outcome == Outcome::Allowed
            && self.reason.is_none()
            && self.denial.is_none()
            // Its number is another each time.
            && self.imdsv1.is_none()
            && self.permit.as_ref()?.would_deny().is_none();
        plain.then_some(())?;
        Some(Likeness {
            call: Rc::clone(self.call.as_ref()?),
            permit: Rc::clone(self.permit.as_ref()?),
            credential: self.credential.clone(),
            mode: self.mode,
            status: self.status,
            epoch: self.epoch,
        })
    }
}

/// The line that was written last on one connection, to be written again where the next exchange is like it.
#[derive(Debug, Default)]
pub(crate) struct Lines(RefCell<Option<(Likeness, Repeated)>>);

/// Everything that a line of success says but its time and latency, and but the caller: of one connection it is one.
#[derive(Debug)]
struct Likeness {
    call: Rc<Call>,
    permit: Rc<Permit>,
    credential: Option<Fingerprint>,
    mode: Option<Mode>,
    status: u16,
    epoch: u64,
}

impl PartialEq for Likeness {
    /// The call is the very one: a memo gives it again. Of a permit, what a line says of it.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.call, &other.call)
            && self.permit.workload() == other.permit.workload()
            && self.permit.rule() == other.permit.rule()
            && self.permit.selectors() == other.permit.selectors()
            && (self.mode, self.status, self.epoch) == (other.mode, other.status, other.epoch)
            && self.credential == other.credential
    }
}

impl Lines {
    /// Appends the line of `record`, which is `likeness`.
    fn write(&self, record: &Record, took: Duration, likeness: Likeness, to: &mut Vec<u8>) {
        let mut last = self.0.borrow_mut();
        if let Some((like, text)) = &mut *last
            && *like == likeness
        {
            return text.write(record.time(took), us(took), to);
        }
        let (exchange, mark) = (record.exchange(took), to.len());
        write(&exchange, to);
        *last = Repeated::of(&to[mark..], &exchange).map(|text| (likeness, text));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.sink.closed();
        if self.withdrawn {
            return;
        }
        let took = self.begun.elapsed();
        self.sink.append(|to| match (&self.lines, self.likeness()) {
            (Some(lines), Some(likeness)) => lines.write(self, took, likeness, to),
            _ => write(&self.exchange(took), to),
        });
    }
}

fn us(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn write(exchange: &Exchange<'_>, to: &mut Vec<u8>) {
    let mark = to.len();
    // Into memory, and a struct of names and numbers always has a JSON form.
    if serde_json::to_writer(&mut *to, &Line::Exchange(exchange.clone())).is_err() {
        to.truncate(mark);
        to.extend_from_slice(br#"{"event":"exchange","outcome":"failed"}"#);
    }
}

fn resource(request: &Request) -> Option<&str> {
    match request {
        Request::Credential(CredentialAsk::AzureToken { resource, .. }) => Some(resource),
        Request::Credential(CredentialAsk::AwsRole { role, .. }) => role.as_deref(),
        Request::Credential(CredentialAsk::GcpToken { account, .. }) => Some(account),
        Request::Credential(CredentialAsk::GcpIdentity { audience, .. }) => Some(audience),
        Request::Read { .. } | Request::Write { .. } => None,
    }
}
