//! Answers the proxy's asks. The subject of an ask is the accepted socket that came with it: the record is read from the
//! kernel by that socket, the process is attested, and before a signature the policy core decides again. Nothing in the
//! message's bytes says who the caller is.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use imds_guard_core::decision::{Decision, DenyReason, Grant, Permit};
use imds_guard_core::seam::{
    Answer, Ask, Attested, AttestedFd, Issuer as Documents, Process, Refusal, SeamError, SignAsk,
    Signed, Subject,
};
use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::CallerRecord;

use super::audit::Audit;
use super::now;
use super::policy::Policy;
use crate::attest::{AttestError, Attestor};
use crate::caller::Caller;
use crate::intercept::Interceptor;
use crate::intercept::guests::{Found, Guests};
use crate::issuer::{Issuer, MintError, Minted, read_assertion};

/// What answers are made from.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) interceptor: Interceptor,
    pub(super) attestor: Attestor,
    pub(super) policy: Policy,
    pub(super) issuer: Option<Issuer>,
    pub(super) audit: Audit,
    pub(super) guests: Guests,
}

/// Whose socket came with an ask.
enum Asked {
    Process(CallerRecord),
    Guest(Found),
}

/// An answer and the descriptors beside it. A first mint publishes the new key before its token leaves.
pub(super) type Reply = Vec<(Answer, Vec<OwnedFd>)>;

impl Answers {
    /// The answer to one message.
    ///
    /// # Errors
    /// A message that no proxy of ours would send: the seam has to end.
    pub(super) fn answer(&mut self, message: &[u8], fds: &[OwnedFd]) -> Result<Reply, SeamError> {
        let ask = Ask::decode(message)?;
        let id = ask.id();
        let Some(asked) = self.asked(fds) else {
            return Ok(refused(id, Refusal::Unattributed));
        };
        let outcome = match (&ask, asked) {
            (Ask::Attest { .. }, Asked::Process(record)) => self.attest(id, &record),
            (Ask::Attest { .. }, Asked::Guest(found)) => attest_guest(id, &found),
            (Ask::Sign { ask, .. }, asked) => self.sign(id, asked, ask),
            (Ask::Recheck { .. }, Asked::Process(record)) => self.recheck(id, &record),
            (Ask::Still { .. }, Asked::Process(record)) => self.still(id, &record),
            // It is where it was, or its socket would be nobody's.
            (Ask::Recheck { .. } | Ask::Still { .. }, Asked::Guest(_)) => {
                Ok(vec![(Answer::Unchanged { id }, vec![])])
            }
            (Ask::Dial { .. }, Asked::Process(record)) => self.dial(id, &record, fds),
            // Guests are served where something is enforced alone.
            (Ask::Dial { .. }, Asked::Guest(_)) => Err(Refusal::Denied(DenyReason::NotServed)),
        };
        Ok(outcome.unwrap_or_else(|reason| refused(id, reason)))
    }

    /// What is published about the key.
    pub(super) fn documents(&self) -> Option<Answer> {
        self.issuer.as_ref().map(|issuer| {
            Answer::Issuer(Documents {
                discovery: issuer.discovery().into(),
                jwks: issuer.jwks().into(),
            })
        })
    }

    /// Who is on the one socket that has to come with an ask: what the kernel says of it, and nothing else.
    fn asked(&self, fds: &[OwnedFd]) -> Option<Asked> {
        let [socket] = fds else { return None };
        match self.guests.of(socket.as_fd()) {
            Some(guest) => Some(Asked::Guest(guest)),
            None => self.record(fds).map(Asked::Process),
        }
    }

    /// The kernel's record of a process.
    fn record(&self, fds: &[OwnedFd]) -> Option<CallerRecord> {
        let [socket] = fds else { return None };
        match self.interceptor.record(socket.as_fd()) {
            Ok(record) => record,
            Err(error) => {
                // Also what a descriptor that is no socket gives.
                tracing::debug!(%error, "no record");
                None
            }
        }
    }

    fn attest(&mut self, id: u64, record: &CallerRecord) -> Result<Reply, Refusal> {
        tracing::debug!(pid = record.tgid, "asked to attest");
        let attested = self.attestor.attest(record).map_err(|e| reason(&e))?;
        let pidfd = attested.pidfd.as_fd().try_clone_to_owned();
        let fds = [pidfd, attested.dir.try_clone()]
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Refusal::Busy)?;
        let answer = Answer::Attested(Attested {
            id,
            subject: Subject::Process(Process {
                tgid: record.tgid,
                start_ns: record.start_boottime,
            }),
            selectors: attested.selectors.clone(),
            fds: vec![AttestedFd::Pidfd, AttestedFd::ProcDir],
        });
        Ok(vec![(answer, fds)])
    }

    fn recheck(&mut self, id: u64, record: &CallerRecord) -> Result<Reply, Refusal> {
        self.attestor.recheck(record).map_err(|e| reason(&e))?;
        Ok(vec![(Answer::Unchanged { id }, vec![])])
    }

    /// Only where nothing is enforced: elsewhere the proxy dials as the host, and only what policy grants.
    fn dial(&self, id: u64, record: &CallerRecord, fds: &[OwnedFd]) -> Result<Reply, Refusal> {
        let ([accepted], false) = (fds, self.policy.enforces(record)) else {
            return Err(Refusal::Denied(DenyReason::NotServed));
        };
        match super::dial::in_place_of(record, accepted.as_fd()) {
            Ok(socket) => Ok(vec![(Answer::Dialling { id }, vec![socket])]),
            Err(error) => {
                tracing::info!(pid = record.tgid, %error, "no socket in a caller's place");
                Err(Refusal::OutOfReach)
            }
        }
    }

    fn still(&mut self, id: u64, record: &CallerRecord) -> Result<Reply, Refusal> {
        self.attestor.still(record).map_err(|e| reason(&e))?;
        Ok(vec![(Answer::Unchanged { id }, vec![])])
    }

    fn sign(&mut self, id: u64, asked: Asked, ask: &SignAsk<'_>) -> Result<Reply, Refusal> {
        let (caller, permit) = match asked {
            Asked::Process(record) => (Caller::Process(record), self.permit(&record, ask)?),
            Asked::Guest(found) => {
                let permit = self.permit_guest(&found, ask)?;
                (Caller::Guest(found.guest), permit)
            }
        };
        let had_key = self.issuer.as_ref().is_some_and(Issuer::has_key);
        let minted = vouched(&permit)?.map_or_else(|| self.mint(&permit), Ok)?;
        let epoch = self.policy.epoch;
        if let Err(error) = self.audit.signed(&caller, &permit, &minted, epoch) {
            tracing::error!(%error, "the audit record of a signature can't be written: nothing is signed");
            return Err(Refusal::Internal);
        }
        let mut reply = vec![];
        if !had_key && self.issuer.as_ref().is_some_and(Issuer::has_key) {
            reply.extend(self.documents().map(|documents| (documents, vec![])));
        }
        reply.push((signed(id, minted), vec![]));
        Ok(reply)
    }

    /// The same for a guest, which has no process to look at: where it is was looked at with its socket.
    fn permit_guest(&self, found: &Found, ask: &SignAsk<'_>) -> Result<Permit, Refusal> {
        if !self.policy.serves_guests(found.guest.dialled, ask.cloud()) {
            return Err(Refusal::Denied(DenyReason::NotServed));
        }
        let workload = self.policy.set.identify(&selectors(found));
        match self.policy.set.decide(&workload, &ask.request(), now()) {
            Decision::Allow(permit) => Ok(permit),
            Decision::Deny(denial) => Err(Refusal::Denied(denial.reason)),
        }
    }

    /// The guard's own decision, over its own evidence.
    fn permit(&mut self, record: &CallerRecord, ask: &SignAsk<'_>) -> Result<Permit, Refusal> {
        if !self.policy.signs_at(record, ask.cloud()) {
            return Err(Refusal::Denied(DenyReason::NotServed));
        }
        let attested = self.attestor.still(record).map_err(|e| reason(&e))?;
        let workload = self.policy.set.identify(&attested.selectors);
        let permit = match self.policy.set.decide(&workload, &ask.request(), now()) {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => return Err(Refusal::Denied(denial.reason)),
        };
        if permit.needs_recheck() {
            self.attestor.recheck(record).map_err(|e| reason(&e))?;
        }
        Ok(permit)
    }

    fn mint(&mut self, permit: &Permit) -> Result<Minted, Refusal> {
        let issuer = self.issuer.as_mut().ok_or(Refusal::NoKey)?;
        issuer.mint(permit, now()).map_err(|error| {
            match &error {
                MintError::NotMint => return Refusal::NotMinted,
                _ => tracing::error!("nothing can be signed: {error}"),
            }
            match error {
                MintError::Store(_) => Refusal::NoKey,
                _ => Refusal::Internal,
            }
        })
    }
}

/// The assertion that somebody else has signed, where the permit says that one stands in a file.
fn vouched(permit: &Permit) -> Result<Option<Minted>, Refusal> {
    let Grant::Federate { identity, .. } = permit.grant() else {
        return Ok(None);
    };
    let federation = identity.federation.as_ref().ok_or(Refusal::Internal)?;
    let Some(file) = federation.file() else {
        return Ok(None);
    };
    read_assertion(file, federation, now())
        .map(Some)
        .map_err(|error| {
            tracing::error!(identity = %identity.name, "no assertion: {error}");
            Refusal::NoAssertion
        })
}

fn attest_guest(id: u64, found: &Found) -> Result<Reply, Refusal> {
    tracing::debug!(guest = %found.guest.id, "asked to attest");
    let gone = found.gone().map_err(|_| Refusal::Busy)?;
    let answer = Answer::Attested(Attested {
        id,
        subject: Subject::Guest(found.guest.key),
        selectors: selectors(found),
        fds: vec![AttestedFd::Gone],
    });
    Ok(vec![(answer, vec![gone])])
}

/// All that is known of a guest. Of a process' selectors it has none.
fn selectors(found: &Found) -> Selectors {
    let mut selectors = Selectors::default();
    selectors.found(Key::VmId, Arc::clone(&found.guest.id));
    selectors.found(Key::NetIfname, Arc::clone(&found.guest.interface));
    selectors
}

fn signed(id: u64, minted: Minted) -> Answer {
    Answer::Signed(Signed {
        id,
        jwt: minted.jwt,
        iat: minted.iat,
        exp: minted.exp,
        jti: minted.jti,
        audience: minted.audience,
    })
}

fn refused(id: u64, reason: Refusal) -> Reply {
    vec![(Answer::Refused { id, reason }, vec![])]
}

fn reason(error: &AttestError) -> Refusal {
    tracing::info!("not attested: {error}");
    match error {
        AttestError::Gone(_) | AttestError::Recycled(_) => Refusal::CallerGone,
        AttestError::Changed(..) => Refusal::CallerChanged,
        AttestError::Unreadable(..) => Refusal::Internal,
        AttestError::Incomplete(_) | AttestError::Kernel(_) => Refusal::Unattributed,
    }
}
