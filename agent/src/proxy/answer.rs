//! From a permit to an answer: out of a configured document, minted by the guard, or from the real service. Every function
//! here takes the permit; none decides anything.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use imds_guard_core::audit::Fingerprint;
use imds_guard_core::decision::{Grant, Permit};
use imds_guard_core::imds::azure::instance::{self, Rendered};
use imds_guard_core::imds::azure::{Ask as AzureAsk, InstanceAsk, TokenAsk, answer};
use imds_guard_core::imds::{Asked, Call};
use imds_guard_core::policy::{Document, Identity, Mode};
use imds_guard_core::request::{AzureIdentity, Request};
use imds_guard_core::seam::{Answer, Ask, SignAsk, Signed};
use imds_guard_core::secret::Secret;
use imds_guard_core::token::BACKDATE;

use super::clock::unix_now;
use super::connection::Connection;
use super::failure::Failure;
use super::gate::Gate;
use super::policy::Policy;
use super::ready::Part;
use super::record::Record;
use super::reply::Reply;
use super::seam::AskError;
use super::socket::Socket;
use crate::credentials::{Credential, Key, Via};
use crate::upstream::{CREDENTIAL_BUDGET, Endpoint, READ_BUDGET, Way};

/// The answer that `permit` allows to `call`.
pub(crate) async fn to(
    on: &Connection,
    policy: &Policy,
    permit: &Permit,
    call: &Rc<Call>,
    gate: &mut Gate<Socket>,
    record: &mut Record,
) -> Result<Reply, Failure> {
    can_be_recorded(on, call)?;
    let Asked::Azure(ask) = &call.asked;
    match (permit.grant(), ask) {
        (Grant::Fixed(document), ask) => fixed(on, policy, document, ask, call),
        (
            Grant::Mint {
                identity,
                audience,
                subject,
            },
            AzureAsk::Token(ask),
        ) => {
            let mint = Mint {
                identity,
                audience,
                subject,
                ask,
            };
            mint.answer(on, policy, permit, record).await
        }
        (Grant::Mint { .. }, _) => Err(Failure::NotServed),
        (Grant::Forward { identity }, _) => {
            forward(on, policy, permit, call, identity.as_deref(), gate).await
        }
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

fn fixed(
    on: &Connection,
    policy: &Policy,
    document: &Arc<Document>,
    ask: &AzureAsk,
    call: &Rc<Call>,
) -> Result<Reply, Failure> {
    match ask {
        AzureAsk::Versions => Ok(Reply::Json(answer::versions().into())),
        AzureAsk::Instance(ask) => {
            if let Some(part) = on.served.part(document, call) {
                return Ok(reply(part));
            }
            let part = part(policy, document, ask, call)?;
            on.served.keep(document, call, part.clone());
            Ok(reply(part))
        }
        AzureAsk::IdentityInfo => document
            .instance
            .pointer("/compute/tenantId")
            .and_then(serde_json::Value::as_str)
            .map(|tenant| Reply::Json(answer::identity_info(tenant).into()))
            .ok_or(Failure::NotServed),
        AzureAsk::Token(_) | AzureAsk::ForwardOnly => Err(Failure::NotServed),
    }
}

/// What `ask` reads of the document, rendered.
fn part(
    policy: &Policy,
    document: &Document,
    ask: &InstanceAsk,
    call: &Call,
) -> Result<Part, Failure> {
    let target = call.rebuild(None).target;
    if let Some(ready) = policy.ready.get(document, &target) {
        return Ok(ready);
    }
    let part = match instance::render(&document.instance, ask)? {
        Rendered::Json(json) => (true, Bytes::from(json)),
        Rendered::Text(text) => (false, Bytes::from(text)),
    };
    policy.ready.keep(document, target, part.clone());
    Ok(part)
}

fn reply((json, body): Part) -> Reply {
    if json {
        Reply::Json(body)
    } else {
        Reply::Text(body)
    }
}

/// A token that the guard signed.
#[derive(Debug)]
pub(crate) struct Token {
    signed: Signed,
    /// The body as it was answered last. Its `expires_in` changes each second, and callers name the resource in their own way.
    body: RefCell<Option<(Written, Secret<Bytes>)>>,
}

/// What a body depends on beside the token.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    now: i64,
    resource: Arc<str>,
    selector: Option<AzureIdentity>,
}

impl Credential for Token {
    fn issued(&self) -> i64 {
        self.signed.iat
    }
    fn expires(&self) -> i64 {
        self.signed.exp
    }
}

impl Token {
    fn body(&self, identity: &Identity, ask: &TokenAsk, now: i64) -> Secret<Bytes> {
        let mut body = self.body.borrow_mut();
        if let Some((written, body)) = &*body
            && written.now == now
            && *written.resource == *ask.resource
            && written.selector == ask.selector
        {
            return body.clone();
        }
        let text = answer::token(&answer::Token {
            access_token: &self.signed.jwt,
            resource: &ask.resource,
            client_id: identity.client_id.as_deref(),
            selector: ask.selector.as_ref(),
            not_before: self.signed.iat - BACKDATE,
            expires_on: self.signed.exp,
            now,
        });
        let bytes = Secret::new(Bytes::from(text.expose().clone()));
        let written = Written {
            now,
            resource: Arc::clone(&ask.resource),
            selector: ask.selector.clone(),
        };
        *body = Some((written, bytes.clone()));
        bytes
    }
}

struct Mint<'a> {
    identity: &'a Arc<Identity>,
    audience: &'a Arc<str>,
    subject: &'a Arc<str>,
    ask: &'a TokenAsk,
}

impl Mint<'_> {
    async fn answer(
        &self,
        on: &Connection,
        policy: &Policy,
        permit: &Permit,
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        let key = Key {
            workload: Arc::clone(permit.workload()),
            identity: Arc::clone(&self.identity.name),
            subject: Arc::clone(self.subject),
            audience: Arc::clone(self.audience),
            epoch: policy.epoch,
        };
        let now = unix_now();
        let (token, via) = on
            .proxy
            .broker
            .get(key, self.ask.bypass_cache, now, async || {
                self.sign(on).await
            })
            .await?;
        record.credential = Some(Fingerprint {
            jti: Arc::clone(&token.signed.jti),
            identity: Arc::clone(&self.identity.name),
            expires: token.signed.exp,
            cached: via == Via::Cache,
        });
        Ok(Reply::Credential {
            body: token.body(self.identity, self.ask, unix_now()),
            fetched: via == Via::Source,
        })
    }

    async fn sign(&self, on: &Connection) -> Result<Token, AskError> {
        let sign = SignAsk::azure(&self.ask.resource, self.ask.selector.as_ref());
        let reply = on
            .proxy
            .seam
            .ask(on.socket.as_fd(), |id| Ask::Sign { id, ask: sign })
            .await?;
        match reply.answer {
            // The guard decided again: by another policy than ours, it would sign for another audience.
            Answer::Signed(signed) if signed.audience == *self.audience => Ok(Token {
                signed,
                body: RefCell::new(None),
            }),
            _ => Err(AskError::Mismatch),
        }
    }
}

async fn forward(
    on: &Connection,
    policy: &Policy,
    permit: &Permit,
    call: &Call,
    identity: Option<&Identity>,
    gate: &mut Gate<Socket>,
) -> Result<Reply, Failure> {
    // Where nothing is enforced a request passes as it would without us, granted or not. Only an enforced grant opens a way.
    let way = match on.door(policy).ok_or(Failure::NotServed)?.mode {
        Mode::Enforce => Way::Host,
        Mode::Audit | Mode::Observe => Way::Caller {
            own: &on.upstream,
            seam: &on.proxy.seam,
            caller: on.socket.as_fd(),
        },
    };
    let pinned = identity.and_then(pinned);
    let rebuilt = call.rebuild(pinned.as_ref());
    let body = Bytes::copy_from_slice(gate.body().await.map_err(Failure::Body)?);
    let endpoint = Endpoint {
        address: on.caller.dialled(),
        id: on.caller.endpoint_id(),
    };
    let budget = match call.request {
        Request::Credential(_) => CREDENTIAL_BUDGET,
        Request::Read { .. } | Request::Write { .. } => READ_BUDGET,
    };
    let answer = on
        .proxy
        .upstream
        .send(permit, way, endpoint, &rebuilt, body, budget)
        .await?;
    Ok(Reply::Forwarded(answer))
}

/// How the real service is told which identity it is to be.
fn pinned(identity: &Identity) -> Option<AzureIdentity> {
    let client = identity.client_id.clone().map(AzureIdentity::ClientId);
    let object = || identity.object_id.clone().map(AzureIdentity::ObjectId);
    let resource = || identity.resource_id.clone().map(AzureIdentity::ResourceId);
    client.or_else(object).or_else(resource)
}
