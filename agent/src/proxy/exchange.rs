//! One request, from its checked head to its answer: the walk that every request on every connection takes. Each step may
//! end it with a [`Failure`]; the table in core turns that into the response. Nothing is answered that is not recorded.

use std::os::fd::AsFd;
use std::rc::Rc;

use imds_guard_core::decision::{Decision, DenyReason, Grant, Permit};
use imds_guard_core::imds::{Call, Service};
use imds_guard_core::seam::Ask;

use super::answer::{self, Permitted};
use super::clock::unix_now;
use super::connection::{Connection, service};
use super::failure::Failure;
use super::gate::{Ended, Gate};
use super::policy::{Door, Policy};
use super::record::Record;
use super::reply::Reply;
use super::sessions::{Session, Still};
use super::socket::Socket;

/// Answers the request whose head `gate` has passed, in the words of the service that was dialled.
///
/// # Errors
/// Its body did not come: where that is the caller's offence, the connection answers and records it instead of us.
pub(crate) async fn exchange(
    on: &Connection,
    gate: &mut Gate<Socket>,
) -> Result<(Service, Reply), Ended> {
    let mut record = on.record();
    let policy = on.proxy.policy();
    let door = on.door(&policy);
    let service = service(door);
    let reply = match judged(on, &policy, door, gate, &mut record).await {
        Ok(reply) => reply,
        Err(Failure::Body(ended)) => {
            // The gate's refusal has a record of its own; a caller that broke off has none but this.
            match ended {
                Ended::Violation(_) => record.withdraw(),
                Ended::Closed | Ended::Broken | Ended::Idle => record.reason = Some("body"),
            }
            return Err(ended);
        }
        Err(failure) => {
            // Fetched, perhaps, and not given: the line is of what the caller got.
            record.credential = None;
            failure.reply(service, &mut record)
        }
    };
    record.status = reply.status();
    Ok((service, reply))
}

async fn judged(
    on: &Connection,
    policy: &Policy,
    door: Option<Door>,
    gate: &mut Gate<Socket>,
    record: &mut Record,
) -> Result<Reply, Failure> {
    let door = door.ok_or(Failure::NotServed)?;
    record.mode = Some(door.mode);
    let call = on.memo.call(gate.head_bytes(), &door.arrival)?;
    record.call = Some(Rc::clone(&call));
    if let Some(reply) = answer::at_once(on, door, &call)? {
        record.allowed();
        return Ok(reply);
    }
    let session = on.session().await?;
    if call.asked.is_imdsv1() {
        record.imdsv1 = Some(session.count_imdsv1());
    }
    still_there(on, &session).await?;
    let permit = Rc::new(permitted(on, &session, policy, &call)?);
    record.permit = Some(Rc::clone(&permit));
    if permit.needs_recheck() {
        recheck(on).await?;
    }
    on.proxy.rates.take(&permit).map_err(Failure::Throttled)?;
    if matches!(permit.grant(), Grant::Forward { .. }) && !gate.is_whole() {
        // Whoever sends a body slowly has time to become another before anything is done upstream.
        gate.body().await.map_err(Failure::Body)?;
        still_there(on, &session).await?;
        still_permitted(on, &session, policy, &call, &permit).await?;
    }
    let permitted = Permitted {
        on,
        policy,
        permit: &permit,
        call: &call,
    };
    let reply = permitted.answer(gate, record).await?;
    // The guard was asked, perhaps, who the caller is: a policy that came meanwhile counts for what needs no fetching, too.
    if reply.took_time() || on.proxy.policy().epoch != policy.epoch {
        still_there(on, &session).await?;
        still_permitted(on, &session, policy, &call, &permit).await?;
        answer::can_be_recorded(on, &call)?;
    }
    record.allowed();
    Ok(reply)
}

/// Whether the process that connected is still there and still who it was.
async fn still_there(on: &Connection, session: &Session) -> Result<(), Failure> {
    match session.still(&on.caller) {
        Still::There => Ok(()),
        Still::Gone | Still::Changed => Err(Failure::Unserved(DenyReason::CallerChanged)),
        // A kernel before 6.13: the guard looks. Not at the executable, which only some permits rest on.
        Still::Unknown => {
            on.proxy
                .seam
                .ask(on.socket.as_fd(), |id| Ask::Still { id })
                .await?;
            Ok(())
        }
    }
}

/// Asks the guard whether the process is still what its record says, its executable and its groups included.
async fn recheck(on: &Connection) -> Result<(), Failure> {
    on.proxy
        .seam
        .ask(on.socket.as_fd(), |id| Ask::Recheck { id })
        .await?;
    Ok(())
}

fn permitted(
    on: &Connection,
    session: &Session,
    policy: &Policy,
    call: &Call,
) -> Result<Permit, Failure> {
    let door = on.door(policy).ok_or(Failure::NotServed)?;
    let workload = session.workload(policy);
    match policy
        .set
        .decide_at(door.mode, &workload, &call.request, unix_now())
    {
        Decision::Allow(permit) => Ok(permit),
        Decision::Deny(denial) => Err(Failure::Denied(denial)),
    }
}

/// While an answer was fetched, the policy may have changed: what came back is given only if the new one grants the very
/// same. And the caller may have started another program: that one is not whom the permit is for.
pub(super) async fn still_permitted(
    on: &Connection,
    session: &Session,
    asked_under: &Policy,
    call: &Call,
    permit: &Permit,
) -> Result<(), Failure> {
    let mut needs_recheck = permit.needs_recheck();
    let current = on.proxy.policy();
    if current.epoch != asked_under.epoch {
        let again = permitted(on, session, &current, call)?;
        if again.grant() != permit.grant() || again.scopes() != permit.scopes() {
            return Err(Failure::Superseded);
        }
        needs_recheck |= again.needs_recheck();
    }
    if needs_recheck {
        recheck(on).await?;
    }
    Ok(())
}
