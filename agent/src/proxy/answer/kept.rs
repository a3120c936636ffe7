//! Credentials that the real service gave, kept while they last: SDKs that start many processes ask for the same one many
//! times, and the real service limits how often. One request for it is under way at a time, whoever waits.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::body::Bytes;
use imds_guard_core::imds::aws::role;
use imds_guard_core::imds::gcp::answer::AccessToken;
use imds_guard_core::secret::Secret;

use super::given::LEAST_AWS;
use crate::credentials::{self, Credential, Missed};
use crate::proxy::failure::Failure;
use crate::proxy::reply::{Form, Reply};
use crate::upstream::{Answer, UpstreamError};

/// A credential of the real service.
#[derive(Debug)]
pub(crate) struct Forwarded {
    what: What,
    received: i64,
    expires: i64,
    least: i64,
}

#[derive(Debug)]
enum What {
    /// Its answer changes each second.
    Access(AccessToken),
    /// A signed statement or a role's keys, the same to the last byte.
    Statement(Secret<Bytes>),
}

impl Credential for Forwarded {
    fn issued(&self) -> i64 {
        self.received
    }
    fn expires(&self) -> i64 {
        self.expires
    }
    fn least(&self) -> i64 {
        self.least
    }
}

impl Forwarded {
    /// Reads an access token in Google's shape, which came at `now`.
    pub(super) fn access(answer: &Answer, now: i64) -> Option<Self> {
        let token = AccessToken::read(answer.body.expose(), now)?;
        Some(Self {
            expires: token.expires,
            what: What::Access(token),
            received: now,
            least: 0,
        })
    }

    /// Reads a statement for `audience`: whose it is, is looked at by whoever it is for; that it is for the one who was asked
    /// about, here.
    pub(super) fn statement(answer: &Answer, audience: &str, now: i64) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Claims {
            aud: String,
            exp: i64,
        }
        let jwt = std::str::from_utf8(answer.body.expose()).ok()?.trim_end();
        let mut parts = jwt.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        let whole = parts.next().is_none() && claims.aud == audience;
        whole.then(|| Self {
            what: What::Statement(Secret::new(Bytes::copy_from_slice(jwt.as_bytes()))),
            received: now,
            expires: claims.exp,
            least: 0,
        })
    }

    /// Reads a role's keys, which stay as the real service wrote them.
    pub(super) fn role(answer: &Answer, now: i64) -> Option<Self> {
        let keys = role::read(answer.body.expose())?;
        Some(Self {
            what: What::Statement(answer.body.clone()),
            received: now,
            expires: keys.expires,
            least: LEAST_AWS,
        })
    }

    /// The answer at `now`.
    pub(super) fn reply(&self, now: i64, fetched: bool) -> Reply {
        let (form, body) = match &self.what {
            What::Access(token) => {
                let text = token.body(now);
                (Form::Json, Secret::new(Bytes::from(text.expose().clone())))
            }
            What::Statement(body) => (Form::Text, body.clone()),
        };
        Reply::Credential {
            form,
            body,
            fetched,
        }
    }
}

/// Why there is none.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unforwarded {
    /// No answer that is one.
    #[error("{0}")]
    Failed(Rc<UpstreamError>),
    /// The real service's refusal, which the caller has in its own words.
    #[error("the metadata service answers {}: has the machine a role, or an account with the scope cloud-platform?", .0.status)]
    Refused(Rc<Answer>),
}

impl credentials::Failure for Unforwarded {
    fn is_general(&self) -> bool {
        match self {
            // What is no answer says nothing of whoever asked.
            Self::Failed(_) => true,
            Self::Refused(answer) => {
                answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error()
            }
        }
    }
}

impl From<UpstreamError> for Unforwarded {
    fn from(error: UpstreamError) -> Self {
        tracing::warn!(%error, "forward failed");
        Self::Failed(Rc::new(error))
    }
}

impl From<Missed<Self>> for Unforwarded {
    fn from(missed: Missed<Self>) -> Self {
        match missed {
            Missed::Late => Self::Failed(Rc::new(UpstreamError::Late)),
            Missed::Failed(failed) => failed,
        }
    }
}

impl Unforwarded {
    /// What the caller gets.
    pub(super) fn answered(self) -> Result<Reply, Failure> {
        match self {
            Self::Failed(error) => Err(Failure::Upstream(error)),
            Self::Refused(answer) => Ok(Reply::Forwarded(Rc::unwrap_or_clone(answer))),
        }
    }
}
