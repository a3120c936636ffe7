//! Amazon's Security Token Service: the request by which one role becomes another, and the XML that answers it. The XML of
//! [`read`] is the same for the calls that bring an identity token in place of a signature.

use std::borrow::Cow;
use std::sync::Arc;

use super::form::{self, Form};
use super::sigv4::{self, Digests, Scope};
use super::{AwsKeys, NotObtained, Obtained, Outgoing, Said, Url};
use crate::secret::Secret;

mod answer;
mod partition;

pub use answer::read;
pub use partition::{Partition, RoleArn, is_region};

/// The version of the protocol, which has been this one since it began.
pub const VERSION: &str = "2011-06-15";

/// The shortest session, in seconds.
pub const DURATION_MIN: u32 = 900;
/// The longest of a role that was assumed by a role, whatever the role itself allows: role chaining.
pub const CHAINED_MAX: u32 = 3600;

/// What a role is assumed for.
#[derive(Debug, Clone, Copy)]
pub struct AssumeRole<'a> {
    /// The whole ARN.
    pub role: &'a str,
    /// What CloudTrail shows beside the role.
    pub session_name: &'a str,
    /// [`DURATION_MIN`] to [`CHAINED_MAX`].
    pub duration: u32,
    /// JSON that narrows what the role may.
    pub policy: Option<&'a str>,
    /// Session tags.
    pub tags: &'a [(Arc<str>, Arc<str>)],
}

/// Asks `url`, which is of `region`, for keys of a role; signed with `keys`. None for a time that no calendar has.
pub fn assume_role(
    ask: AssumeRole<'_>,
    url: &Url,
    region: &str,
    keys: &AwsKeys,
    now: i64,
    digests: Digests,
) -> Option<Outgoing> {
    let mut form = Form::new()
        .with("Action", "AssumeRole")
        .with("Version", VERSION)
        .with("RoleArn", ask.role)
        .with("RoleSessionName", ask.session_name)
        .with("DurationSeconds", &ask.duration.to_string());
    if let Some(policy) = ask.policy {
        form = form.with("Policy", policy);
    }
    for (number, (key, value)) in (1..).zip(ask.tags) {
        form = form
            .with(&format!("Tags.member.{number}.Key"), key)
            .with(&format!("Tags.member.{number}.Value"), value);
    }
    let body = form.into_bytes();
    let mut headers = vec![("content-type", form::MEDIA_TYPE.to_owned())];
    let scope = Scope {
        region,
        service: "sts",
        now,
    };
    let signed = sigv4::sign(keys, scope, url, &headers, &body, digests)?;
    headers.extend(signed.headers);
    Some(Outgoing {
        method: "POST",
        url: url.clone(),
        headers,
        secret: Some(signed.secret),
        body: Secret::new(body),
    })
}

/// Whether the endpoint takes the keys that signed for none of its own, or any more: with newer ones it may say yes.
pub fn blames_keys(error: &NotObtained) -> bool {
    let NotObtained::Refused { code, .. } = error else {
        return false;
    };
    matches!(
        code.as_str(),
        "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
    )
}

/// What `code` means for whoever runs the host.
fn classified(code: &str, message: &str, status: u16, retry_after: Option<u32>) -> NotObtained {
    let remedy: &'static str = match code {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown" => return NotObtained::Throttled { retry_after },
        "IDPCommunicationError"
        | "ServiceUnavailable"
        | "InternalFailure"
        | "InternalError"
        | "InternalServiceError"
        | "RequestTimeout" => return NotObtained::Unavailable { status },
        "AccessDenied" | "AccessDeniedException" => {
            "allow sts:AssumeRole on this role (with tags sts:TagSession, too) to the instance's role, and let the role's trust policy name the instance's role"
        }
        "MalformedPolicyDocument" => "correct the identity's session_policy",
        "PackedPolicyTooLarge" => "shorten the identity's session_policy, or use fewer tags",
        "RegionDisabledException" => "activate STS in this region, or write another region",
        "ExpiredToken" | "ExpiredTokenException" => {
            "nothing, if it happens once: newer keys are fetched"
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            "look at whether the region is one that the account has enabled"
        }
        "SignatureDoesNotMatch" | "RequestExpired" | "InvalidSignatureException" => {
            "set this host's clock: a signature is good for some minutes"
        }
        "InvalidIdentityToken" => {
            "look at whether the provider in IAM has this issuer's URL, audience and keys"
        }
        "IDPRejectedClaim" => "look at the claims that the provider in IAM asks for",
        "ValidationError" => {
            "look at the identity's lifetime (the role's maximum session duration), tags and session_name"
        }
        _ => "look the code up in the documentation of AWS STS",
    };
    NotObtained::Refused {
        code: Said::new(code),
        message: Said::new(message),
        remedy: Cow::Borrowed(remedy),
    }
}

#[cfg(test)]
mod tests;
