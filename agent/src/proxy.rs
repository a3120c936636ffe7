//! The unprivileged process: accepts, parses, decides, answers. It reads strangers' bytes, so it holds nothing worth taking:
//! no capability, no file, no key; see [`sandbox`]. What it knows of a caller is the kernel's record of the accepted socket
//! and what the guard says about that very socket; what it serves by is the policy that the guard pushed.
//!
//! In reading order: [`mod@run`], [`announce`] and [`accept`]; [`connection`], its [`gate`] and [`http1`], and the walk of a request in [`exchange`]; the
//! [`answer`] and, in the crate's root, `credentials`, `upstream` and `outbound`; who a caller is ([`kernel`], [`sessions`], [`seam`]);
//! what is kept about everyone ([`seats`], [`rates`], [`sink`], [`record`]).
//!
//! Invariants: one thread; no file is opened, and no name is one that a caller wrote; nothing is answered without a record; the seam's end is
//! this process's end.

mod accept;
mod announce;
mod answer;
mod clock;
mod connection;
mod exchange;
mod failure;
mod gate;
mod http1;
pub(crate) mod kernel;
mod linger;
mod memo;
mod policy;
mod published;
mod rates;
mod ready;
mod record;
mod reply;
mod revoked;
mod run;
mod sandbox;
pub(crate) mod seam;
mod seats;
mod session_token;
mod sessions;
mod sink;
mod socket;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

pub use run::{ProxyError, connect, run};

use crate::caller::Caller;
use crate::credentials::Broker;
use crate::outbound::Outbound;
use crate::upstream::Upstream;

/// Everything that connections share. One per process, on one thread.
#[derive(Debug)]
pub(crate) struct Proxy {
    kernel: Rc<dyn kernel::Kernel>,
    seam: Rc<seam::Seam>,
    policy: RefCell<Rc<policy::Policy>>,
    sessions: Rc<sessions::Sessions>,
    tokens: session_token::Sealer,
    seats: Rc<seats::Seats>,
    rates: rates::Rates,
    broker: Broker<answer::Token, seam::AskError>,
    /// Credentials of the real service, where a dialect's may be kept.
    forwarded: Rc<Broker<answer::Forwarded, answer::Unforwarded>>,
    /// What clouds' token endpoints gave.
    given: Rc<Broker<answer::Given, answer::NotGiven>>,
    /// What the machine itself is known by, which is nobody's to be given.
    node: Rc<Broker<answer::Node, answer::Unforwarded>>,
    /// Told of each new policy: whoever waits for something to change is judged anew.
    changed: watch::Sender<()>,
    revoked: revoked::Revoked,
    upstream: Upstream,
    /// The clouds' own endpoints.
    outbound: Outbound,
    replies: reply::Replies,
    sink: Rc<sink::Sink>,
}

impl Proxy {
    /// What is shared, before anyone has called. At most `most` connections are served at once, whatever the policy says.
    fn new(
        kernel: Rc<dyn kernel::Kernel>,
        seam: Rc<seam::Seam>,
        policy: policy::Policy,
        tokens: session_token::Sealer,
        audit: OwnedFd,
        most: usize,
    ) -> Rc<Self> {
        let most = policy.max_connections().min(most);
        let outbound = Outbound::new();
        outbound.avoid(policy.guarded());
        Rc::new(Self {
            upstream: Upstream::new(Rc::clone(&kernel)),
            outbound,
            kernel,
            seam,
            policy: RefCell::new(Rc::new(policy)),
            sessions: Rc::default(),
            tokens,
            // A quarter for each: it takes four identities to fill the room.
            seats: seats::Seats::new(most, most.div_ceil(4)),
            rates: rates::Rates::default(),
            broker: Broker::new(),
            forwarded: Rc::new(Broker::new()),
            given: Rc::new(Broker::new()),
            node: Rc::new(Broker::new()),
            changed: watch::Sender::new(()),
            revoked: revoked::Revoked::default(),
            replies: reply::Replies::new(),
            sink: sink::Sink::new(audit),
        })
    }

    /// The policy of this moment. An exchange keeps the one that it began with.
    fn policy(&self) -> Rc<policy::Policy> {
        Rc::clone(&self.policy.borrow())
    }

    /// Serves by another policy from now on: live connections are judged by it at their next request, and nothing that was
    /// fetched under the old one is served.
    fn replace_policy(&self, policy: policy::Policy) {
        tracing::info!(epoch = policy.epoch, "serving by a new policy");
        self.outbound.avoid(policy.guarded());
        *self.policy.borrow_mut() = Rc::new(policy);
        self.sessions.clear();
        self.broker.clear();
        self.forwarded.clear();
        self.given.clear();
        self.node.clear();
        self.changed.send_replace(());
        self.rates.clear();
    }

    /// An operator's word: nothing that was fetched for this workload, or for anybody, is given any more, and connections end. The
    /// next who asks is judged and served anew.
    fn revoke(&self, workload: Option<&Arc<str>>) {
        match workload {
            Some(name) => {
                self.broker.revoke(name);
                self.forwarded.revoke(name);
                self.given.revoke(name);
            }
            None => {
                self.broker.clear();
                self.forwarded.clear();
                self.given.clear();
                self.node.clear();
            }
        }
        self.revoked.revoke(workload);
    }

    fn record(&self, caller: Option<Caller>) -> record::Record {
        record::Record::begin(&self.sink, caller, self.policy.borrow().epoch, None)
    }
}

#[cfg(test)]
mod tests;
