//! Amazon's answers: session tokens, parts of a configured tree, the one role that a rule names, and what the real service
//! says, asked with a session token of our own.

use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use imds_guard_core::decision::Grant;
use imds_guard_core::imds::aws::document::{Rendered, render};
use imds_guard_core::imds::aws::{Ask, TOKEN_HEADER, TreeAsk, What};
use imds_guard_core::imds::{Call, Rebuilt};
use imds_guard_core::policy::{Document, Identity, Mode};
use imds_guard_core::respond::{Outcome, respond};
use imds_guard_core::secret::Secret;

use super::assume::Assume;
use super::federate::{self, Federate};
use super::forward::{endpoint, forward, way};
use super::kept::{Forwarded, Unforwarded};
use super::{Permitted, node};
use crate::credentials::Key;
use crate::proxy::clock::unix_now;
use crate::proxy::connection::Connection;
use crate::proxy::failure::Failure;
use crate::proxy::gate::Gate;
use crate::proxy::policy::Door;
use crate::proxy::record::Record;
use crate::proxy::reply::{Form, Reply};
use crate::proxy::session_token::is_live;
use crate::proxy::socket::Socket;
use crate::upstream::{CREDENTIAL_BUDGET, Way};

/// What is answered before it is known who the caller is and what it may have: a session token, to whoever asks, for a PUT that
/// is refused or slow makes SDKs go on without a token. And what is refused then: a token that isn't this caller's.
pub(super) fn at_once(
    on: &Connection,
    door: Door,
    call: &Rc<Call>,
    ask: &Ask,
) -> Result<Option<Reply>, Failure> {
    match ask {
        Ask::Session { ttl } => {
            let token = on.proxy.tokens.seal(on.holder(), *ttl)?;
            let outcome = Outcome::Session {
                token: &token,
                ttl: *ttl,
            };
            Ok(Some(Reply::Table(respond(door.arrival.service, &outcome))))
        }
        // Where nothing is enforced yet, callers go on with the tokens that they have from the real service.
        Ask::Tree(ask) if door.mode == Mode::Enforce && !has_session(on, call, ask) => {
            Err(Failure::Session)
        }
        Ask::Tree(_) | Ask::Container(_) => Ok(None),
    }
}

/// Whether the session that is shown is the caller's and lives, or none is shown, which is for policy to judge. A head that
/// comes again on a connection is opened once.
fn has_session(on: &Connection, call: &Rc<Call>, ask: &TreeAsk) -> bool {
    let Some(token) = ask.session.token() else {
        return true;
    };
    let mut opened = on.opened.borrow_mut();
    if let Some((of, end)) = &*opened
        && Rc::ptr_eq(of, call)
    {
        return is_live(*end);
    }
    let end = on.proxy.tokens.open(on.holder(), token.expose());
    *opened = end.map(|end| (Rc::clone(call), end));
    end.is_some_and(is_live)
}

/// The answer that the permit allows.
pub(super) async fn made(
    of: &Permitted<'_>,
    ask: &Ask,
    gate: &mut Gate<Socket>,
    record: &mut Record,
) -> Result<Reply, Failure> {
    if let Some(federate) = Federate::of(of.permit.grant()) {
        return match ask {
            Ask::Tree(ask) if ask.what == What::Roles => role(federate.identity()),
            _ => federate::aws(of, federate, ask, record).await,
        };
    }
    if let Some(assume) = Assume::of(of.permit.grant()) {
        return match ask {
            Ask::Tree(ask) if ask.what == What::Roles => role(assume.identity()),
            _ => assume.aws(of, ask, record).await,
        };
    }
    match (of.permit.grant(), ask) {
        (Grant::Forward { identity }, Ask::Tree(ask)) => match (identity.as_deref(), ask.what) {
            // The one that the rule names, whatever else the machine has. In audit the caller sees what it would without us.
            (Some(identity), What::Roles) if of.mode()? == Mode::Enforce => role(identity),
            (Some(identity), What::Role) if of.mode()? == Mode::Enforce => keys(of, identity).await,
            _ => tree(of, ask, gate).await,
        },
        (Grant::Forward { .. }, Ask::Container(_)) => {
            forward(of, of.call.rebuild(None), gate).await
        }
        (Grant::Fixed(document), Ask::Tree(ask)) => fixed(of, document, ask),
        (Grant::Fixed(_), Ask::Container(_))
        | (Grant::Mint { .. } | Grant::Assume { .. } | Grant::Federate { .. }, _)
        | (_, Ask::Session { .. }) => Err(Failure::NotServed),
    }
}

fn role(identity: &Identity) -> Result<Reply, Failure> {
    let name = identity.role_name().ok_or(Failure::NotServed)?;
    Ok(Reply::Made(
        Form::Text,
        Bytes::copy_from_slice(name.as_bytes()),
    ))
}

fn fixed(of: &Permitted<'_>, document: &Arc<Document>, ask: &TreeAsk) -> Result<Reply, Failure> {
    let Permitted { on, call, .. } = of;
    if let Some(part) = on.served.part(document, call) {
        return Ok(Reply::Made(part.0, part.1));
    }
    let target = call.rebuild(None).target;
    let part = match of.policy.ready.get(document, &target) {
        Some(ready) => ready,
        None => {
            let part = match render(&document.instance, ask, call.path()) {
                Some(Rendered::Text(text)) => (Form::Text, Bytes::from(text)),
                Some(Rendered::Octets(text)) => (Form::Octets, Bytes::from(text)),
                None => return Err(Failure::NotServed),
            };
            of.policy.ready.keep(document, target, part.clone());
            part
        }
    };
    on.served.keep(document, call, part.clone());
    Ok(Reply::Made(part.0, part.1))
}

/// The keys of a role that the machine has: those that are kept, or the real service's.
async fn keys(of: &Permitted<'_>, identity: &Identity) -> Result<Reply, Failure> {
    let rebuilt = of.call.rebuild(None);
    let key = Key {
        workload: Arc::clone(of.permit.workload()),
        identity: Arc::clone(&identity.name),
        subject: "".into(),
        audience: format!("{} {}", endpoint(of).address, of.call.path()).into(),
        epoch: of.policy.epoch,
    };
    let (proxy, permit, at) = (Rc::clone(&of.on.proxy), of.permit.clone(), endpoint(of));
    let fetch = || async move {
        let answer = node::imds(&proxy, &permit, at, rebuilt).await?;
        let read = Forwarded::role(&answer, unix_now()).filter(|_| answer.status == 200);
        // Whatever it says instead, the caller hears.
        read.ok_or_else(|| Unforwarded::Refused(Rc::new(answer)))
    };
    let forwarded = &of.on.proxy.forwarded;
    match forwarded
        .obtain(key, unix_now(), CREDENTIAL_BUDGET, fetch)
        .await
    {
        Ok((keys, via)) => Ok(keys.reply(unix_now(), via.took_time())),
        Err(missed) => Unforwarded::from(missed).answered(),
    }
}

/// The real service's answer, under a session of ours; in the caller's place, under what the caller has itself.
async fn tree(
    of: &Permitted<'_>,
    ask: &TreeAsk,
    gate: &mut Gate<Socket>,
) -> Result<Reply, Failure> {
    let way = way(of)?;
    let upstream = &of.on.proxy.upstream;
    let endpoint = endpoint(of);
    let session = match (way, ask.session.token()) {
        (Way::Host, _) => Some(upstream.session(of.permit, endpoint).await?),
        (Way::Caller { .. }, None) => None,
        (Way::Caller { .. }, Some(token)) => {
            if of
                .on
                .proxy
                .tokens
                .open(of.on.holder(), token.expose())
                .is_some()
            {
                upstream.session_in_place(of.permit, way, endpoint).await
            } else {
                Some(token.clone())
            }
        }
    };
    let reply = forward(of, under(of.call, session.as_ref()), gate).await?;
    if !matches!(way, Way::Host) || reply.status() != 401 {
        return Ok(reply);
    }
    // Ours is not known there any more: the machine was restored, or the service started anew.
    upstream.forget_session(endpoint);
    let session = upstream.session(of.permit, endpoint).await?;
    forward(of, under(of.call, Some(&session)), gate).await
}

fn under(call: &Call, session: Option<&Secret<Arc<str>>>) -> Rebuilt {
    let mut rebuilt = call.rebuild(None);
    rebuilt.secret = session.map(|token| (TOKEN_HEADER, token.clone()));
    rebuilt
}
