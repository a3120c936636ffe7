//! The sentences that every dialect has in common. Must never: say "unreachable" (see [`super`]).

use crate::decision::DenyReason;
use crate::imds::Malformed;

use super::NotGiven;

/// Of a request that breaks its dialect's rules.
pub(super) fn malformed(malformed: Malformed) -> String {
    format!("Bad request: {malformed}")
}

/// Of a refusal.
pub(super) fn denied(reason: DenyReason) -> String {
    let why = match reason {
        DenyReason::Unattributed => "the caller could not be identified",
        DenyReason::CallerChanged => {
            "the process that opened this connection has ended or changed; open a new connection"
        }
        DenyReason::NoWorkload => "no workload of this host's policy matches the caller",
        DenyReason::AmbiguousWorkload => {
            "the caller matches several workloads that would get different identities"
        }
        DenyReason::NoRule => "the caller's workload has no grant for this request",
        DenyReason::DenyRule => "this host's policy denies this request",
        DenyReason::OtherIdentity => {
            "the caller's grant is for another identity than the one requested"
        }
        DenyReason::Expired => "the grant for this request has expired",
        DenyReason::NotServed => "this host is not configured to serve this request",
        DenyReason::Imdsv1 => {
            "the caller's grant needs a session token (IMDSv2), and the request has none"
        }
    };
    format!("Refused by imds-guard: {why}. Ask the host's administrator.")
}

/// Of what a cloud's token endpoint doesn't give.
pub(super) fn not_given(why: NotGiven<'_>) -> String {
    match why {
        NotGiven::Refused { code } => {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let code = match code {
                "" => String::new(),
                code if code.len() <= 64 && code.chars().all(word) => format!(" ({code})"),
                _ => String::new(),
            };
            format!(
                "Refused by imds-guard: the cloud gives nothing to the identity of the caller's grant{code}. Ask the host's administrator."
            )
        }
        NotGiven::Away => "The cloud's token endpoint could not be contacted".to_owned(),
        NotGiven::Slow => "The cloud's token endpoint did not answer in time".to_owned(),
        NotGiven::Broken => "The cloud's token endpoint gave no valid answer".to_owned(),
    }
}

/// Of what failed on our side or behind us.
pub(super) const AWAY: &str = "The metadata service could not be contacted";
/// The same, in time.
pub(super) const SLOW: &str = "The metadata service did not answer in time";
/// The same, as an answer should be.
pub(super) const BROKEN: &str = "The metadata service gave no valid answer";
/// The same, and it was us.
pub(super) const INTERNAL: &str = "The request could not be served";
/// Of a path with nothing under it.
pub(super) const NOTHING: &str = "There is nothing under this path";
/// Of a limit.
pub(super) const TOO_MANY: &str = "Too many requests: try again later";
/// Of a session token that isn't the caller's, or has expired.
pub(super) const SESSION: &str =
    "The session token is not valid: get another with PUT /latest/api/token";
