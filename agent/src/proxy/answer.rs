//! From a permit to an answer: the real service's ([`forward`]), or one that is made here, each dialect in a module of its
//! own. Every function here takes the permit; none decides anything.

mod assume;
mod aws;
mod azure;
mod federate;
mod forward;
mod gcp;
mod given;
mod kept;
mod node;
mod wait;

use std::rc::Rc;

use imds_guard_core::decision::{Grant, Permit};
use imds_guard_core::imds::{self, Asked, Call};
use imds_guard_core::policy::Mode;
use imds_guard_core::request::Request;

pub(crate) use azure::Token;
pub(crate) use given::{Given, NotGiven};
pub(crate) use kept::{Forwarded, Unforwarded};
pub(crate) use node::Node;

use super::connection::Connection;
use super::failure::Failure;
use super::gate::Gate;
use super::policy::{Door, Policy};
use super::record::Record;
use super::reply::Reply;
use super::socket::Socket;

/// A request that policy allows, and where it came from.
#[derive(Debug)]
pub(crate) struct Permitted<'a> {
    pub(crate) on: &'a Connection,
    /// The policy that it is allowed under.
    pub(crate) policy: &'a Policy,
    pub(crate) permit: &'a Permit,
    pub(crate) call: &'a Rc<Call>,
}

impl Permitted<'_> {
    /// The answer that the permit allows.
    pub(crate) async fn answer(
        &self,
        gate: &mut Gate<Socket>,
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        can_be_recorded(self.on, self.call)?;
        match (self.permit.grant(), &self.call.asked) {
            (Grant::Forward { identity }, Asked::Azure(ask)) => {
                let rebuilt = self.call.rebuild(identity.as_deref());
                let answer = forward::forward(self, rebuilt, gate);
                // The first answer about scheduled events takes the real service minutes.
                if matches!(ask, imds::azure::Ask::ForwardOnly) {
                    return wait::judged_meanwhile(self, answer).await;
                }
                answer.await
            }
            (_, Asked::Azure(ask)) => azure::made(self, ask, record).await,
            (_, Asked::Aws(ask)) => aws::made(self, ask, gate, record).await,
            (_, Asked::Gcp(ask)) => gcp::made(self, ask, gate, record).await,
        }
    }

    /// Mode of the endpoint that was dialled.
    fn mode(&self) -> Result<Mode, Failure> {
        let door = self.on.door(self.policy).ok_or(Failure::NotServed)?;
        Ok(door.mode)
    }
}

/// What a dialect answers or refuses before anyone asks who the caller is and what it may have: nothing that differs from one
/// caller to the next.
pub(crate) fn at_once(
    on: &Connection,
    door: Door,
    call: &Rc<Call>,
) -> Result<Option<Reply>, Failure> {
    match &call.asked {
        Asked::Azure(_) => Ok(None),
        Asked::Aws(ask) => aws::at_once(on, door, call, ask),
        Asked::Gcp(ask) => Ok(gcp::at_once(door, call, ask)),
    }
}

/// No credential is given that leaves no line.
pub(crate) fn can_be_recorded(on: &Connection, call: &Call) -> Result<(), Failure> {
    let credential = matches!(call.request, Request::Credential(_));
    if credential && !on.proxy.sink.takes_records() {
        return Err(Failure::Unaudited);
    }
    Ok(())
}
