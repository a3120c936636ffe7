//! Google's IAM Credentials: the node's account asks for a token of another account, which has to let it
//! (`roles/iam.serviceAccountTokenCreator`).

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{NotObtained, Obtained, Outgoing, Said, Url};
use crate::secret::Secret;

/// The scope that the node's own token needs for it.
pub const NODE_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Where it is.
pub const ENDPOINT: &str = "https://iamcredentials.googleapis.com/";
/// The longest that a token lives where the organisation doesn't allow more, in seconds.
pub const LIFETIME_MAX: u32 = 3600;

/// No token of Google's is near it.
const TOKEN_BYTES: usize = 16 * 1024;

/// Asks for an access token of `account`, good for `scopes`, for `lifetime` seconds; with the node's `token`. None where the
/// account is no address.
pub fn access_token(
    endpoint: &Url,
    account: &str,
    token: &Secret<Arc<str>>,
    scopes: &[Arc<str>],
    lifetime: u32,
) -> Option<Outgoing> {
    let body = serde_json::json!({ "scope": scopes, "lifetime": format!("{lifetime}s") });
    outgoing(endpoint, account, "generateAccessToken", token, &body)
}

/// Asks for an identity token of `account` for `audience`; with the node's `token`. None where the account is no address.
pub fn identity_token(
    endpoint: &Url,
    account: &str,
    token: &Secret<Arc<str>>,
    audience: &str,
) -> Option<Outgoing> {
    // With the address in it: so are the metadata server's.
    let body = serde_json::json!({ "audience": audience, "includeEmail": true });
    outgoing(endpoint, account, "generateIdToken", token, &body)
}

fn outgoing(
    endpoint: &Url,
    account: &str,
    method: &str,
    token: &Secret<Arc<str>>,
    body: &serde_json::Value,
) -> Option<Outgoing> {
    let target = format!("/v1/projects/-/serviceAccounts/{account}:{method}");
    let bearer = format!("Bearer {}", token.expose());
    Some(Outgoing {
        method: "POST",
        url: endpoint.at(&target).ok().filter(|_| is_account(account))?,
        headers: vec![("content-type", "application/json".to_owned())],
        secret: Some(("authorization", Secret::new(bearer.into()))),
        body: Secret::new(body.to_string().into_bytes()),
    })
}

/// Whether it is written as a service account's address is.
pub fn is_account(text: &str) -> bool {
    let plain = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    text.split_once('@')
        .is_some_and(|(name, host)| plain(name) && plain(host) && host.contains('.'))
}

/// Reads the answer to [`access_token`], received at `now` (Unix seconds).
///
/// # Errors
/// A refusal, a failure, and whatever is no answer.
pub fn read_access_token(
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
    now: i64,
) -> Result<Obtained, NotObtained> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        access_token: String,
        expire_time: String,
    }
    let body: Body = given(status, retry_after, body)?;
    let expires = body
        .expire_time
        .parse::<jiff::Timestamp>()
        .map_err(|_| NotObtained::NotAnAnswer("its expireTime is no time"))?
        .as_second();
    bearer(body.access_token, expires, now)
}

/// Reads the answer to [`identity_token`] for `audience`, received at `now` (Unix seconds).
///
/// # Errors
/// A refusal, a failure, and whatever is no answer; a token for somebody else among it.
pub fn read_identity_token(
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
    audience: &str,
    now: i64,
) -> Result<Obtained, NotObtained> {
    #[derive(Deserialize)]
    struct Body {
        token: String,
    }
    let body: Body = given(status, retry_after, body)?;
    let Some((aud, exp)) = claims(&body.token) else {
        return Err(NotObtained::NotAnAnswer("its token is no JWT"));
    };
    if aud != audience {
        return Err(NotObtained::NotAnAnswer(
            "its token is for another audience",
        ));
    }
    bearer(body.token, exp, now)
}

/// `aud` and `exp` of a JWT, as it says: whoever it is for verifies it.
fn claims(jwt: &str) -> Option<(String, i64)> {
    #[derive(Deserialize)]
    struct Claims {
        aud: String,
        exp: i64,
    }
    let mut parts = jwt.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some((claims.aud, claims.exp))
}

fn bearer(token: String, expires: i64, now: i64) -> Result<Obtained, NotObtained> {
    let plain = !token.is_empty()
        && token.len() <= TOKEN_BYTES
        && token.bytes().all(|b| b.is_ascii_graphic());
    if !plain {
        return Err(NotObtained::NotAnAnswer("its token is no token"));
    }
    if expires <= now {
        return Err(NotObtained::NotAnAnswer("its token has expired already"));
    }
    Ok(Obtained::Bearer {
        token: Secret::new(token.into()),
        expires,
    })
}

/// The body of a 200; of anything else the error in it.
fn given<T: for<'a> Deserialize<'a>>(
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
) -> Result<T, NotObtained> {
    if status == 200 {
        return serde_json::from_slice(body)
            .map_err(|_| NotObtained::NotAnAnswer("it isn't the JSON that is documented"));
    }
    Err(refused(status, retry_after, body))
}

/// Google's error, of any of its services that speak JSON.
fn refused(status: u16, retry_after: Option<u32>, body: &[u8]) -> NotObtained {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        status: String,
        #[serde(default)]
        message: String,
    }
    if let Some(general) = NotObtained::of_status(status, retry_after) {
        return general;
    }
    let Ok(Body { error }) = serde_json::from_slice::<Body>(body) else {
        return NotObtained::NotAnAnswer("it isn't the JSON that is documented");
    };
    let remedy: &'static str = match error.status.as_str() {
        "RESOURCE_EXHAUSTED" => return NotObtained::Throttled { retry_after },
        "UNAVAILABLE" | "INTERNAL" | "DEADLINE_EXCEEDED" | "ABORTED" => {
            return NotObtained::Unavailable { status };
        }
        "PERMISSION_DENIED" => {
            "give the machine's account roles/iam.serviceAccountTokenCreator on this account, and enable iamcredentials.googleapis.com"
        }
        "UNAUTHENTICATED" => {
            "nothing, if it happens once: a newer token is fetched. Else: does the machine have an account with the scope cloud-platform?"
        }
        "NOT_FOUND" => "look at the identity's account: there is none of this name",
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" => {
            "look at the rule's scopes and the identity's lifetime"
        }
        _ => "look the status up in the documentation of IAM Credentials",
    };
    NotObtained::Refused {
        code: Said::new(&error.status),
        message: Said::new(&error.message),
        remedy: Cow::Borrowed(remedy),
    }
}

/// Whether the endpoint takes the node's token for none, or none any more: with a newer one it may say yes.
pub fn blames_token(error: &NotObtained) -> bool {
    matches!(error, NotObtained::Refused { code, .. } if code.as_str() == "UNAUTHENTICATED")
}

#[cfg(test)]
mod tests;
