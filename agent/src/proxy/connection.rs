//! One accepted connection: who is on it, where it came to, and its life from accept to the last byte. What is asked on it
//! is judged in [`super::exchange`], one request at a time; this module never looks at a request.

use std::cell::{OnceCell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use imds_guard_core::audit;
use imds_guard_core::decision::DenyReason;
use imds_guard_core::http::Violation;
use imds_guard_core::imds::{Call, Service};
use imds_guard_core::respond::{Outcome, respond};
use imds_guard_core::seam;
use tokio::net::TcpStream;

use super::exchange::exchange;
use super::gate::{Ended, Gate};
use super::memo::Memo;
use super::policy::{Door, Policy};
use super::ready::Served;
use super::record::{Lines, Record};
use super::seam::AskError;
use super::seats::{Holder, Seat};
use super::session_token::TokenHolder;
use super::sessions::Session;
use super::socket::Socket;
use super::{Proxy, http1, linger};
use crate::caller::{Caller, Guest};
use crate::intercept::guests;
use crate::upstream::Own;

/// In whose words somebody is refused of whom it isn't known what was dialled.
pub(crate) const UNKNOWN: Service = Service::AzureImds;

/// One connection of a recorded caller.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) proxy: Rc<Proxy>,
    pub(crate) socket: Socket,
    pub(crate) caller: Caller,
    pub(crate) memo: Memo,
    /// To the real service in this caller's place, where one is dialled for it.
    pub(crate) upstream: Own,
    pub(crate) served: Served,
    /// The call whose session token was opened last, and when that ends.
    pub(crate) opened: RefCell<Option<(Rc<Call>, u64)>>,
    holder: OnceCell<TokenHolder>,
    lines: Rc<Lines>,
    session: RefCell<Option<Rc<Session>>>,
    door: RefCell<Option<(u64, Option<Door>)>>,
}

/// Serves one accepted socket to its end.
pub(crate) async fn serve(proxy: Rc<Proxy>, stream: TcpStream) {
    let record = proxy.kernel.record(stream.as_fd()).unwrap_or_else(|error| {
        // Refused below like any other socket without a record.
        tracing::error!(%error, "can't read attribution records");
        None
    });
    serve_caller(proxy, stream, record.map(Caller::Process)).await;
}

/// Serves one socket that the listener of `guest` accepted.
pub(crate) async fn serve_guest(proxy: Rc<Proxy>, stream: TcpStream, guest: Rc<seam::Guest>) {
    let addresses = stream
        .peer_addr()
        .ok()
        .zip(guests::dialled(stream.as_fd()).ok());
    let caller = addresses.map(|(address, dialled)| {
        Caller::Guest(Guest {
            key: guest.key,
            id: Arc::clone(&guest.id),
            interface: Arc::clone(&guest.interface),
            dialled,
            address,
        })
    });
    serve_caller(proxy, stream, caller).await;
}

async fn serve_caller(proxy: Rc<Proxy>, stream: TcpStream, caller: Option<Caller>) {
    let holder = match &caller {
        Some(Caller::Process(record)) => Holder::Recorded {
            cgroup: record.cgroup_id,
            uid: record.effective_uid,
        },
        Some(Caller::Guest(guest)) => Holder::Guest(guest.key),
        None => Holder::Unattributed,
    };
    let socket = Socket::new(stream);
    match (proxy.seats.take(holder), caller) {
        (Ok(seat), Some(caller)) => attributed(proxy, socket, caller, seat).await,
        (Ok(_seat), None) => unattributed(&proxy, socket).await,
        (Err(full), caller) => {
            let policy = proxy.policy();
            let service = service(caller.as_ref().and_then(|caller| policy.door(caller)));
            let mut record = proxy.record(caller);
            record.reason = Some(full.name());
            record.outcome = audit::Outcome::Throttled;
            let answer = respond(service, &Outcome::Throttled { retry_after: 1 }).last();
            record.status = answer.status;
            // No farewell: there is no seat for one to be held on.
            drop(socket.try_write(&answer.to_bytes()));
        }
    }
}

async fn unattributed(proxy: &Proxy, socket: Socket) {
    let answer = {
        let mut record = proxy.record(None);
        record.outcome = audit::Outcome::Denied;
        record.reason = Some("unattributed");
        let refusal = Outcome::Unserved(DenyReason::Unattributed);
        let answer = respond(UNKNOWN, &refusal).last();
        record.status = answer.status;
        answer
    };
    linger::refuse(socket, &answer.to_bytes()).await;
}

async fn attributed(proxy: Rc<Proxy>, socket: Socket, caller: Caller, seat: Seat) {
    let connection = Connection {
        proxy,
        socket,
        caller,
        memo: Memo::default(),
        upstream: Own::default(),
        served: Served::default(),
        opened: RefCell::default(),
        holder: OnceCell::new(),
        lines: Rc::default(),
        session: RefCell::default(),
        door: RefCell::default(),
    };
    let Connection { proxy, socket, .. } = &connection;
    let served = http1::serve(socket, &seat, &proxy.replies, async |gate: &mut Gate<_>| {
        exchange(&connection, gate).await
    });
    let ended = tokio::select! {
        biased;
        ended = served => ended,
        // In the middle of whatever it is: what is on its way to this caller was fetched before.
        () = proxy.revoked.reaches(|| connection.names()) => Ended::Closed,
    };
    match ended {
        Ended::Violation(violation) => connection.violated(violation).await,
        Ended::Closed | Ended::Broken | Ended::Idle => {}
    }
}

/// What is spoken where a connection came to.
pub(crate) fn service(door: Option<Door>) -> Service {
    door.map_or(UNKNOWN, |door| door.arrival.service)
}

impl Connection {
    /// Answers what the gate refused, records it, and closes.
    async fn violated(&self, violation: Violation) {
        let answer = {
            let mut record = self.proxy.record(Some(self.caller.clone()));
            record.outcome = audit::Outcome::Refused;
            let door = self.door(&self.proxy.policy());
            record.mode = door.map(|door| door.mode);
            record.reason = Some(violation.name());
            let answer = respond(service(door), &Outcome::Violation(violation));
            record.status = answer.status;
            answer
        };
        linger::refuse(self.socket.clone(), &answer.to_bytes()).await;
    }

    /// The workloads that are on it, as far as that is known: who has asked for nothing has got nothing.
    fn names(&self) -> Vec<Arc<str>> {
        let session = self.session.borrow();
        let workload = |session: &Rc<Session>| session.workload(&self.proxy.policy()).names();
        session.as_ref().map(workload).unwrap_or_default()
    }

    /// Begins the record of an exchange on it.
    pub(crate) fn record(&self) -> Record {
        let epoch = self.proxy.policy.borrow().epoch;
        Record::begin(
            &self.proxy.sink,
            Some(self.caller.clone()),
            epoch,
            Some(Rc::clone(&self.lines)),
        )
    }

    /// Whom session tokens on this connection are for.
    pub(crate) fn holder(&self) -> &TokenHolder {
        self.holder
            .get_or_init(|| self.proxy.tokens.holder(&self.caller))
    }

    /// The process on this connection, attested at its first request.
    pub(crate) async fn session(&self) -> Result<Rc<Session>, AskError> {
        if let Some(session) = &*self.session.borrow() {
            return Ok(Rc::clone(session));
        }
        let Proxy { sessions, seam, .. } = &*self.proxy;
        let session = sessions.of(seam, self.socket.as_fd(), &self.caller).await?;
        *self.session.borrow_mut() = Some(Rc::clone(&session));
        Ok(session)
    }

    /// Where this connection came to, as `policy` sees it.
    pub(crate) fn door(&self, policy: &Policy) -> Option<Door> {
        let mut door = self.door.borrow_mut();
        match *door {
            Some((epoch, known)) if epoch == policy.epoch => known,
            _ => {
                let found = policy.door(&self.caller);
                *door = Some((policy.epoch, found));
                found
            }
        }
    }
}
