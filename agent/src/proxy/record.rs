//! The audit record of one exchange: begun before anything is looked at, written when dropped, so that exactly one line
//! comes out however the exchange ends. Holds names and numbers, never a secret: no header, no body, no query but the
//! resource that policy was asked about.

use std::rc::Rc;

use imds_guard_core::audit::{Exchange, Fingerprint, Line, Outcome};
use imds_guard_core::decision::{Denial, Permit};
use imds_guard_core::imds::Call;
use imds_guard_core::policy::Mode;
use imds_guard_core::request::{CredentialAsk, Request};
use imds_guard_ebpf::CallerRecord;
use tokio::time::Instant;

use super::sink::Sink;

/// The record, while its exchange lasts.
#[derive(Debug)]
pub(crate) struct Record {
    sink: Rc<Sink>,
    begun: Instant,
    caller: Option<CallerRecord>,
    pub(crate) epoch: u64,
    /// Of the endpoint that was dialled.
    pub(crate) mode: Option<Mode>,
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
            mode: None,
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
        Line::Exchange(Exchange {
            time: jiff::Timestamp::now(),
            outcome: self.outcome,
            status: self.status,
            reason: self.reason,
            mode: self.mode,
            workload: self.permit.as_ref().map(|permit| &**permit.workload()),
            selectors: self.permit.as_ref().map(|permit| &**permit.selectors()),
            rule: self.permit.as_ref().map(|permit| &**permit.rule()),
            denial: self.denial.as_ref(),
            would_deny: self.permit.as_ref().and_then(Permit::would_deny),
            method: self.call.as_deref().map(Call::method),
            path,
            resource,
            credential: self.credential.as_ref(),
            caller: self.caller.as_ref().map(crate::audit::caller),
            epoch: self.epoch,
            latency_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
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
