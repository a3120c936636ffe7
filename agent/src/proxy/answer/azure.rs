//! Azure's answers that are made here: parts of a configured document, and tokens that the guard signs.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;

use hyper::body::Bytes;
use imds_guard_core::audit::Fingerprint;
use imds_guard_core::decision::Grant;
use imds_guard_core::imds::Call;
use imds_guard_core::imds::azure::instance::{self, Rendered};
use imds_guard_core::imds::azure::{Ask, InstanceAsk, TokenAsk, answer};
use imds_guard_core::policy::{Document, Identity};
use imds_guard_core::request::AzureIdentity;
use imds_guard_core::seam::{self, Answer, SignAsk, Signed};
use imds_guard_core::secret::Secret;
use imds_guard_core::token::BACKDATE;

use super::Permitted;
use super::federate::{self, Federate};
use crate::credentials::{Credential, Key};
use crate::proxy::clock::unix_now;
use crate::proxy::connection::Connection;
use crate::proxy::failure::Failure;
use crate::proxy::policy::Policy;
use crate::proxy::ready::Part;
use crate::proxy::record::Record;
use crate::proxy::reply::{Form, Reply};
use crate::proxy::seam::AskError;

/// What the grant gives for `ask`, where it isn't the real service's to answer.
pub(super) async fn made(
    of: &Permitted<'_>,
    ask: &Ask,
    record: &mut Record,
) -> Result<Reply, Failure> {
    match (of.permit.grant(), ask) {
        (Grant::Fixed(document), ask) => fixed(of, document, ask),
        (
            Grant::Mint {
                identity,
                audience,
                subject,
            },
            Ask::Token(ask),
        ) => {
            let mint = Mint {
                identity,
                audience,
                subject,
                ask,
            };
            mint.answer(of, record).await
        }
        (grant, Ask::Token(ask)) => match Federate::of(grant) {
            Some(federate) => federate::azure(of, federate, ask, record).await,
            None => Err(Failure::NotServed),
        },
        _ => Err(Failure::NotServed),
    }
}

fn fixed(of: &Permitted<'_>, document: &Arc<Document>, ask: &Ask) -> Result<Reply, Failure> {
    let Permitted { on, call, .. } = of;
    match ask {
        Ask::Versions => Ok(Reply::Made(Form::Json, answer::versions().into())),
        Ask::Instance(ask) => {
            if let Some(part) = on.served.part(document, call) {
                return Ok(Reply::Made(part.0, part.1));
            }
            let part = part(of.policy, document, ask, call)?;
            on.served.keep(document, call, part.clone());
            Ok(Reply::Made(part.0, part.1))
        }
        Ask::IdentityInfo => document
            .instance
            .pointer("/compute/tenantId")
            .and_then(serde_json::Value::as_str)
            .map(|tenant| Reply::Made(Form::Json, answer::identity_info(tenant).into()))
            .ok_or(Failure::NotServed),
        Ask::Token(_) | Ask::ForwardOnly => Err(Failure::NotServed),
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
        Rendered::Json(json) => (Form::Json, Bytes::from(json)),
        Rendered::Text(text) => (Form::Text, Bytes::from(text)),
    };
    policy.ready.keep(document, target, part.clone());
    Ok(part)
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
    pub(super) const fn signed(&self) -> &Signed {
        &self.signed
    }

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
    async fn answer(&self, of: &Permitted<'_>, record: &mut Record) -> Result<Reply, Failure> {
        let Permitted { on, permit, .. } = of;
        let key = Key {
            workload: Arc::clone(permit.workload()),
            identity: Arc::clone(&self.identity.name),
            subject: Arc::clone(self.subject),
            audience: Arc::clone(self.audience),
            epoch: of.policy.epoch,
        };
        let now = unix_now();
        let (token, via) = on
            .proxy
            .broker
            .get(key, self.ask.bypass_cache, now, async || {
                let ask = SignAsk::azure(&self.ask.resource, self.ask.selector.as_ref());
                sign(on, ask, self.audience).await
            })
            .await?;
        record.credential = Some(Fingerprint {
            jti: Arc::clone(&token.signed.jti),
            identity: Arc::clone(&self.identity.name),
            expires: token.signed.exp,
            cached: via.is_cached(),
        });
        Ok(Reply::Credential {
            form: Form::Json,
            body: token.body(self.identity, self.ask, unix_now()),
            fetched: via.took_time(),
        })
    }
}

/// Has the guard sign what `ask` says, for the audience that the permit names.
pub(super) async fn sign(
    on: &Connection,
    ask: SignAsk<'_>,
    audience: &str,
) -> Result<Token, AskError> {
    let reply = on
        .proxy
        .seam
        .ask(on.socket.as_fd(), |id| seam::Ask::Sign { id, ask })
        .await?;
    match reply.answer {
        // The guard decided again: by another policy than ours, it would sign for another audience.
        Answer::Signed(signed) if *signed.audience == *audience => Ok(Token {
            signed,
            body: RefCell::new(None),
        }),
        _ => Err(AskError::Mismatch),
    }
}
