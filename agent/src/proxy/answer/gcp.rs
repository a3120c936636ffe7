//! Google's answers: parts of a configured tree, the account of a caller's own rule, identity tokens that the guard signs, and
//! what the real server says, looked through where it shows a whole tree.

use std::rc::Rc;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use imds_guard_core::audit::Fingerprint;
use imds_guard_core::decision::Grant;
use imds_guard_core::imds::gcp::document::{Fault, render};
use imds_guard_core::imds::gcp::recursive::{Looked, look, look_text};
use imds_guard_core::imds::gcp::{
    self, AccountPart, Ask, FLAVOR, Form as Alt, IdentityAsk, TreeAsk, account_part, answer, moved,
};
use imds_guard_core::imds::{Call, Rebuilt};
use imds_guard_core::policy::{Document, Identity, Mode};
use imds_guard_core::respond;
use imds_guard_core::seam::SignAsk;
use imds_guard_core::secret::Secret;

use super::assume::Assume;
use super::federate::{self, Federate};
use super::forward::{endpoint, forward};
use super::kept::{Forwarded, Unforwarded};
use super::wait::{held, judged_meanwhile};
use super::{Permitted, azure, node};
use crate::credentials::{Key, Via};
use crate::proxy::clock::unix_now;
use crate::proxy::failure::Failure;
use crate::proxy::gate::Gate;
use crate::proxy::policy::Door;
use crate::proxy::record::Record;
use crate::proxy::reply::{Form, Reply};
use crate::proxy::socket::Socket;
use crate::upstream::{CREDENTIAL_BUDGET, UpstreamError};

/// What is answered before it is known who the caller is: the names at the top, the same on every machine, by which a library
/// finds out that there is a metadata server at all. Where nothing is enforced the real one answers.
pub(super) fn at_once(door: Door, call: &Call, ask: &Ask) -> Option<Reply> {
    match ask {
        Ask::Top { listing, slash } if door.mode == Mode::Enforce => Some(if *slash {
            Reply::Made(Form::Text, Bytes::from_static(listing.as_bytes()))
        } else {
            elsewhere(call)
        }),
        _ => None,
    }
}

/// The answer that the permit allows.
pub(super) async fn made(
    of: &Permitted<'_>,
    ask: &Ask,
    gate: &mut Gate<Socket>,
    record: &mut Record,
) -> Result<Reply, Failure> {
    match (of.permit.grant(), ask) {
        (Grant::Fixed(document), Ask::Tree(ask)) => fixed(of, document, ask).await,
        (
            Grant::Mint {
                identity,
                audience,
                subject,
            },
            Ask::Identity(ask),
        ) if !ask.bound => mint(of, (identity, audience, subject), ask, record).await,
        (grant @ Grant::Federate { .. }, Ask::Token(ask)) if !ask.bound => {
            let federate = Federate::of(grant).ok_or(Failure::NotServed)?;
            federate::gcp(of, federate, &ask.account, record).await
        }
        (grant @ Grant::Federate { .. }, Ask::Identity(ask)) if !ask.bound => {
            let federate = Federate::of(grant).ok_or(Failure::NotServed)?;
            federate::gcp(of, federate, &ask.account, record).await
        }
        (grant @ Grant::Assume { .. }, Ask::Token(ask)) if !ask.bound => {
            let assume = Assume::of(grant).ok_or(Failure::NotServed)?;
            assume.access_token(of, &ask.scopes, record).await
        }
        (grant @ Grant::Assume { .. }, Ask::Identity(ask)) if !ask.bound => {
            let assume = Assume::of(grant).ok_or(Failure::NotServed)?;
            assume.identity_token(of, record).await
        }
        // Where nothing is enforced the request goes on as it was written.
        (Grant::Forward { .. }, Ask::Tree(ask)) if of.mode()? != Mode::Enforce => {
            tree(of, of.call.rebuild(None), ask, gate).await
        }
        (Grant::Forward { .. }, _) if of.mode()? != Mode::Enforce => {
            forward(of, of.call.rebuild(None), gate).await
        }
        (Grant::Forward { identity }, Ask::Tree(ask)) => match (identity, of.permit.scopes()) {
            (Some(identity), Some(scopes)) => account(of, identity, scopes, ask).await,
            _ => tree(of, of.call.rebuild(None), ask, gate).await,
        },
        (Grant::Forward { identity }, Ask::Token(gcp::TokenAsk { bound, .. }))
        | (Grant::Forward { identity }, Ask::Identity(IdentityAsk { bound, .. })) => {
            let scopes = of.permit.scopes().map_or(&[][..], |scopes| scopes);
            let rebuilt = of.call.rebuild_for(identity.as_deref(), scopes);
            // One that is bound to a certificate is the one process's that brought it.
            if *bound {
                return forward(of, rebuilt, gate).await;
            }
            credential(of, identity.as_deref(), rebuilt, ask).await
        }
        (Grant::Forward { .. }, Ask::Write | Ask::Top { .. }) => {
            forward(of, of.call.rebuild(None), gate).await
        }
        (
            Grant::Fixed(_) | Grant::Mint { .. } | Grant::Assume { .. } | Grant::Federate { .. },
            _,
        ) => Err(Failure::NotServed),
    }
}

fn elsewhere(call: &Call) -> Reply {
    Reply::Table(respond::moved(moved(call)))
}

async fn fixed(
    of: &Permitted<'_>,
    document: &Arc<Document>,
    ask: &TreeAsk,
) -> Result<Reply, Failure> {
    let Permitted { on, call, .. } = of;
    let part = match on.served.part(document, call) {
        Some(part) => part,
        None => match render(&document.instance, ask, call.path()) {
            Ok((form, body)) => (in_form(form), Bytes::from(body)),
            Err(Fault::Moved) => return Ok(elsewhere(call)),
            Err(Fault::NotFound) => return Err(Failure::NotServed),
        },
    };
    on.served.keep(document, call, part.clone());
    tagged(of, ask, part.0, part.1).await
}

const fn in_form(form: Alt) -> Form {
    match form {
        Alt::Json => Form::Json,
        Alt::Text => Form::Text,
    }
}

/// With what it is known by, and when it is wanted.
async fn tagged(
    of: &Permitted<'_>,
    ask: &TreeAsk,
    form: Form,
    body: Bytes,
) -> Result<Reply, Failure> {
    let etag = answer::etag(&body);
    let waited = held(of, ask.wait.as_ref(), &etag).await?;
    Ok(Reply::Tagged {
        form,
        body,
        etag,
        waited,
    })
}

/// The account that the caller's own rule names, with the scopes that it may have.
async fn account(
    of: &Permitted<'_>,
    identity: &Identity,
    scopes: &[Arc<str>],
    ask: &TreeAsk,
) -> Result<Reply, Failure> {
    let (_, part) = account_part(of.call.path()).ok_or(Failure::NotServed)?;
    let directory = matches!(part, AccountPart::List | AccountPart::Account);
    match (directory, ask.slash) {
        (true, false) => return Ok(elsewhere(of.call)),
        (false, true) => return Err(Failure::NotServed),
        _ => {}
    }
    let pool = identity.federation.as_ref().and_then(|f| f.address());
    let email = match identity.account.clone().or(pool) {
        Some(email) => email,
        None => match default_email(of).await {
            Ok(email) => email,
            Err(failed) => return failed.answered(),
        },
    };
    let (form, body) = answer::account(part, &email, scopes, ask);
    tagged(of, ask, in_form(form), Bytes::from(body)).await
}

/// Of the machine's own account, where a rule leaves it to the machine.
async fn default_email(of: &Permitted<'_>) -> Result<Arc<str>, Unforwarded> {
    let rebuilt = Rebuilt {
        method: "GET",
        target: "/computeMetadata/v1/instance/service-accounts/default/email".to_owned(),
        headers: vec![(FLAVOR.0.to_owned(), FLAVOR.1.to_owned())],
        secret: None,
    };
    let answer = node::as_host(&of.on.proxy, of.permit, endpoint(of), &rebuilt).await?;
    if answer.status != StatusCode::OK {
        return Err(Unforwarded::Refused(Rc::new(answer)));
    }
    let email = std::str::from_utf8(answer.body.expose()).map(str::trim);
    match email {
        Ok(email) if email.contains('@') && email.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(email.into())
        }
        _ => Err(UpstreamError::NoCredential.into()),
    }
}

/// A credential of the real server, or the one of it that is kept.
async fn credential(
    of: &Permitted<'_>,
    identity: Option<&Identity>,
    rebuilt: Rebuilt,
    ask: &Ask,
) -> Result<Reply, Failure> {
    let key = Key {
        workload: Arc::clone(of.permit.workload()),
        identity: identity.map_or_else(|| "".into(), |identity| Arc::clone(&identity.name)),
        subject: "".into(),
        audience: rebuilt.target.as_str().into(),
        epoch: of.policy.epoch,
    };
    let (proxy, permit, at) = (Rc::clone(&of.on.proxy), of.permit.clone(), endpoint(of));
    let audience = match ask {
        Ask::Identity(ask) => Some(Arc::clone(&ask.audience)),
        _ => None,
    };
    let fetch = || async move {
        let answer = node::as_host(&proxy, &permit, at, &rebuilt).await?;
        if answer.status != StatusCode::OK {
            return Err(Unforwarded::Refused(Rc::new(answer)));
        }
        let read = match audience {
            Some(audience) => Forwarded::statement(&answer, &audience, unix_now()),
            None => Forwarded::access(&answer, unix_now()),
        };
        read.ok_or_else(|| UpstreamError::NoCredential.into())
    };
    let forwarded = &of.on.proxy.forwarded;
    match forwarded
        .obtain(key, unix_now(), CREDENTIAL_BUDGET, fetch)
        .await
    {
        Ok((credential, via)) => Ok(credential.reply(unix_now(), via.took_time())),
        Err(missed) => Unforwarded::from(missed).answered(),
    }
}

/// The real server's answer to a read of its tree.
async fn tree(
    of: &Permitted<'_>,
    rebuilt: Rebuilt,
    ask: &TreeAsk,
    gate: &mut Gate<Socket>,
) -> Result<Reply, Failure> {
    let answer = judged_meanwhile(of, forward(of, rebuilt, gate)).await;
    let mut answer = match answer {
        Ok(Reply::Forwarded(answer)) => answer,
        // Where it sends whoever leaves the slash out is known; where else it may send anybody is nobody's business.
        Err(Failure::Upstream(error))
            if !ask.slash && matches!(*error, UpstreamError::Redirect) =>
        {
            return Ok(elsewhere(of.call));
        }
        other => return other,
    };
    if ask.recursive && answer.status == StatusCode::OK {
        let body = answer.body.expose();
        let looked = match ask.form {
            Some(Alt::Text) => look_text(of.call.path(), body),
            _ => look(of.call.path(), body),
        };
        match looked {
            Looked::Clean => {}
            Looked::Without(rest) => answer.body = Secret::new(Bytes::from(rest)),
            Looked::Unreadable => return Err(UpstreamError::NoTree.into()),
        }
    }
    Ok(Reply::Forwarded(answer))
}

/// An identity token of the host's own issuer. It says nothing of a machine at Google's, in either format.
async fn mint(
    of: &Permitted<'_>,
    (identity, audience, subject): (&Arc<Identity>, &Arc<str>, &Arc<str>),
    ask: &IdentityAsk,
    record: &mut Record,
) -> Result<Reply, Failure> {
    let key = Key {
        workload: Arc::clone(of.permit.workload()),
        identity: Arc::clone(&identity.name),
        subject: Arc::clone(subject),
        audience: Arc::clone(audience),
        epoch: of.policy.epoch,
    };
    let sign = SignAsk::Gcp {
        audience: &ask.audience,
        account: &ask.account,
    };
    let broker = &of.on.proxy.broker;
    let fetch = async || azure::sign(of.on, sign, audience).await;
    let (token, via) = broker.get(key, false, unix_now(), fetch).await?;
    let signed = token.signed();
    record.credential = Some(Fingerprint {
        jti: Arc::clone(&signed.jti),
        identity: Arc::clone(&identity.name),
        expires: signed.exp,
        cached: via == Via::Cache,
    });
    let jwt = Bytes::copy_from_slice(signed.jwt.expose().as_bytes());
    Ok(Reply::Credential {
        form: Form::Text,
        body: Secret::new(jwt),
        fetched: via == Via::Source,
    })
}
