//! An assertion for the caller, exchanged at the cloud. The guard signs or reads the assertion, having decided again; this process
//! carries it to the cloud and holds what comes back while it lasts. Every function here takes the permit; none decides anything.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use imds_guard_core::decision::{Grant, Target};
use imds_guard_core::exchange::{
    NotObtained, Obtained, Outgoing, entra, google, google_sts, web_identity,
};
use imds_guard_core::imds::aws::{Ask, answer as aws};
use imds_guard_core::imds::azure::{TokenAsk, answer as azure};
use imds_guard_core::imds::gcp::answer::AccessToken;
use imds_guard_core::policy::Identity;
use imds_guard_core::policy::federation::{Exchange, Federation};
use imds_guard_core::seam::{self, Answer, SignAsk, Signed};
use imds_guard_core::secret::Secret;
use tokio::time::Instant;

use super::Permitted;
use super::given::{Given, NotGiven};
use crate::credentials::{Key, Via};
use crate::proxy::clock::unix_now;
use crate::proxy::failure::Failure;
use crate::proxy::record::Record;
use crate::proxy::reply::{Form, Reply};
use crate::proxy::seam::AskError;
use crate::upstream::CREDENTIAL_BUDGET;

/// The parts of a grant to federate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Federate<'a> {
    identity: &'a Arc<Identity>,
    federation: &'a Federation,
    target: &'a Target,
    subject: Option<&'a Arc<str>>,
}

impl<'a> Federate<'a> {
    /// Of a grant, if it is one.
    pub(super) fn of(grant: &'a Grant) -> Option<Self> {
        match grant {
            Grant::Federate {
                identity,
                target,
                subject,
            } => Some(Self {
                identity,
                federation: identity.federation.as_deref()?,
                target,
                subject: subject.as_ref(),
            }),
            _ => None,
        }
    }

    pub(super) const fn identity(&self) -> &'a Arc<Identity> {
        self.identity
    }

    /// The credential: the one that is kept, or a new one. `fresh` means that one of before this request won't do.
    pub(super) async fn credential(
        &self,
        of: &Permitted<'_>,
        ask: SignAsk<'_>,
        fresh: bool,
        record: &mut Record,
    ) -> Result<(Rc<Given>, Via), Failure> {
        let key = Key {
            workload: Arc::clone(of.permit.workload()),
            identity: Arc::clone(&self.identity.name),
            subject: self.subject.map_or_else(|| "".into(), Arc::clone),
            audience: self.target.text(),
            epoch: of.policy.epoch,
        };
        let broker = &of.on.proxy.given;
        let got = broker
            .get(key, fresh, unix_now(), async || {
                self.exchange(of, ask).await
            })
            .await;
        let (given, via) = got?;
        record.credential = Some(given.fingerprint(self.identity, via));
        Ok((given, via))
    }

    async fn exchange(&self, of: &Permitted<'_>, ask: SignAsk<'_>) -> Result<Given, NotGiven> {
        let begun = Instant::now();
        let signed = self.assertion(of, ask).await?;
        let at = At { of, begun };
        let outcome = match (&self.federation.exchange, self.target) {
            (Exchange::Entra { url }, Target::Resource(resource)) => {
                let outgoing = entra::request(&entra::Ask {
                    url,
                    client_id: self.identity.client_id.as_deref().unwrap_or_default(),
                    resource,
                    assertion: &signed.jwt,
                });
                at.ask(&outgoing, entra::answer).await
            }
            (Exchange::Aws { url, session }, Target::Role(_)) => {
                let name = session.as_deref().unwrap_or(of.permit.workload());
                let outgoing = web_identity::request(&web_identity::Ask {
                    url,
                    role: self.identity.role.as_deref().unwrap_or_default(),
                    session: &web_identity::session_name(name),
                    policy: self.identity.session_policy.as_deref(),
                    seconds: self.identity.lifetime_seconds,
                    assertion: &signed.jwt,
                });
                at.ask(&outgoing, web_identity::answer).await
            }
            (Exchange::Google { .. }, target) => self.google(&at, target, &signed).await,
            _ => Err(NotGiven::Unfit),
        };
        let obtained = outcome.inspect_err(|why| self.tell(of, why))?;
        let id = match &obtained {
            // What CloudTrail knows the keys by.
            Obtained::Aws(keys) => Arc::clone(&keys.access_key_id),
            Obtained::Bearer { .. } => Arc::clone(&signed.jti),
        };
        Ok(Given {
            obtained,
            received: unix_now(),
            id,
        })
    }

    /// What the guard signs, or reads, for the caller; having decided by the same policy as we, for the same audience.
    async fn assertion(&self, of: &Permitted<'_>, ask: SignAsk<'_>) -> Result<Signed, AskError> {
        let seam = &of.on.proxy.seam;
        let reply = seam
            .ask(of.on.socket.as_fd(), |id| seam::Ask::Sign { id, ask })
            .await?;
        match reply.answer {
            Answer::Signed(signed) if *signed.audience == *self.federation.audience => Ok(signed),
            _ => Err(AskError::Mismatch),
        }
    }

    /// The pool's token, and with it, where the identity names one, a service account's.
    async fn google(
        &self,
        at: &At<'_>,
        target: &Target,
        signed: &Signed,
    ) -> Result<Obtained, NotGiven> {
        let Exchange::Google {
            url,
            credentials,
            provider,
        } = &self.federation.exchange
        else {
            return Err(NotGiven::Unfit);
        };
        let account = self.identity.account.as_deref();
        let impersonate: [Arc<str>; 1] = [google_sts::IMPERSONATE.into()];
        let scopes = match (account, target) {
            (None, Target::Scopes(scopes)) => &**scopes,
            (Some(_), _) => &impersonate,
            (None, _) => return Err(NotGiven::Unfit),
        };
        let outgoing = google_sts::request(&google_sts::Ask {
            url,
            provider,
            scopes,
            assertion: &signed.jwt,
        });
        let pools = at.ask(&outgoing, google_sts::answer).await?;
        let (Some(account), Obtained::Bearer { token, .. }) = (account, &pools) else {
            return Ok(pools);
        };
        let lifetime = self.identity.lifetime_seconds;
        match target {
            Target::Scopes(scopes) => {
                let outgoing = google::access_token(credentials, account, token, scopes, lifetime);
                let outgoing = outgoing.ok_or(NotGiven::Unfit)?;
                at.ask(&outgoing, google::read_access_token).await
            }
            Target::Audience(audience) => {
                let outgoing = google::identity_token(credentials, account, token, audience);
                let outgoing = outgoing.ok_or(NotGiven::Unfit)?;
                let read = |status, retry_after, body: &[u8], now| {
                    google::read_identity_token(status, retry_after, body, audience, now)
                };
                at.ask(&outgoing, read).await
            }
            _ => Err(NotGiven::Unfit),
        }
    }

    fn tell(&self, of: &Permitted<'_>, why: &NotGiven) {
        let (identity, workload) = (&self.identity.name, of.permit.workload());
        match why {
            // The guard has told.
            NotGiven::Guard(_) => {}
            NotGiven::Unfit => tracing::error!(%identity, %workload, "no exchange: {why}"),
            why => tracing::warn!(%identity, %workload, "no exchange: {why}"),
        }
    }
}

/// An exchange under way: all that it asks has one budget.
struct At<'a> {
    of: &'a Permitted<'a>,
    begun: Instant,
}

impl At<'_> {
    async fn ask(
        &self,
        outgoing: &Outgoing,
        read: impl FnOnce(u16, Option<u32>, &[u8], i64) -> Result<Obtained, NotObtained>,
    ) -> Result<Obtained, NotGiven> {
        let left = CREDENTIAL_BUDGET.saturating_sub(self.begun.elapsed());
        let outbound = &self.of.on.proxy.outbound;
        let answer = outbound
            .send(self.of.permit, outgoing, left)
            .await
            .map_err(|error| NotGiven::Outbound(Rc::new(error)))?;
        read(
            answer.status.as_u16(),
            answer.retry_after.as_ref().and_then(seconds),
            answer.body.expose(),
            unix_now(),
        )
        .map_err(|why| NotGiven::Cloud(Rc::new(why)))
    }
}

/// `Retry-After` in seconds. A date counts as nothing said.
pub(super) fn seconds(value: &HeaderValue) -> Option<u32> {
    value.to_str().ok()?.trim().parse().ok()
}

/// A role's keys in the shape that the caller's endpoint has.
pub(super) async fn aws(
    of: &Permitted<'_>,
    federate: Federate<'_>,
    ask: &Ask,
    record: &mut Record,
) -> Result<Reply, Failure> {
    let role = federate.target.text();
    let sign = SignAsk::Aws {
        role: &role,
        imdsv1: ask.is_imdsv1(),
    };
    let (given, via) = federate.credential(of, sign, false, record).await?;
    let Obtained::Aws(keys) = &given.obtained else {
        return Err(Failure::NotServed);
    };
    let (form, body) = match ask {
        // Every document is plain text to the metadata service, also a JSON one.
        Ask::Tree(_) => (Form::Text, aws::of_instance(keys, given.received)),
        Ask::Container(_) => {
            let arn = federate.identity.role.as_deref().unwrap_or_default();
            (Form::Json, aws::of_container(keys, arn))
        }
        Ask::Session { .. } => return Err(Failure::NotServed),
    };
    Ok(credential(form, body.expose(), via))
}

/// A token of Entra's in the shape of Azure's metadata service.
pub(super) async fn azure(
    of: &Permitted<'_>,
    federate: Federate<'_>,
    ask: &TokenAsk,
    record: &mut Record,
) -> Result<Reply, Failure> {
    let sign = SignAsk::azure(&ask.resource, ask.selector.as_ref());
    let (given, via) = federate
        .credential(of, sign, ask.bypass_cache, record)
        .await?;
    let Obtained::Bearer { token, expires } = &given.obtained else {
        return Err(Failure::NotServed);
    };
    let body = azure::token(&azure::Token {
        access_token: token,
        resource: &ask.resource,
        client_id: federate.identity.client_id.as_deref(),
        selector: ask.selector.as_ref(),
        not_before: given.received,
        expires_on: *expires,
        now: unix_now(),
    });
    Ok(credential(Form::Json, body.expose(), via))
}

/// A token of Google's in the shape of its metadata server.
pub(super) async fn gcp(
    of: &Permitted<'_>,
    federate: Federate<'_>,
    account: &str,
    record: &mut Record,
) -> Result<Reply, Failure> {
    let text = federate.target.text();
    let sign = match federate.target {
        Target::Scopes(_) => SignAsk::GcpToken {
            scopes: &text,
            account,
        },
        _ => SignAsk::Gcp {
            audience: &text,
            account,
        },
    };
    let (given, via) = federate.credential(of, sign, false, record).await?;
    let Obtained::Bearer { token, expires } = &given.obtained else {
        return Err(Failure::NotServed);
    };
    Ok(match federate.target {
        Target::Scopes(_) => {
            let body = AccessToken::given(token, *expires).body(unix_now());
            credential(Form::Json, body.expose(), via)
        }
        _ => credential(Form::Text, token.expose(), via),
    })
}

pub(super) fn credential(form: Form, body: &str, via: Via) -> Reply {
    Reply::Credential {
        form,
        body: Secret::new(Bytes::copy_from_slice(body.as_bytes())),
        fetched: via.took_time(),
    }
}
