//! Every way in which a request is not given what it asks for, and what becomes of each: an outcome for the caller, in
//! core's table, and a word for the record. What failed inside is logged and never shown.

use std::rc::Rc;
use std::time::Duration;

use imds_guard_core::audit;
use imds_guard_core::decision::{Denial, DenyReason};
use imds_guard_core::exchange::NotObtained;
use imds_guard_core::imds::azure::instance::InstanceFault;
use imds_guard_core::imds::{Malformed, Service};
use imds_guard_core::respond::{self, Outcome, respond};
use imds_guard_core::seam::Refusal;

use super::answer::NotGiven;
use super::gate::Ended;
use super::record::Record;
use super::reply::Reply;
use super::seam::AskError;
use super::session_token::SealError;
use crate::credentials::{self, Failure as _};
use crate::outbound::OutboundError;
use crate::upstream::UpstreamError;

/// Why not.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request is none of its dialect.
    Malformed(Malformed),
    /// The caller is not known, or no longer who it was.
    Unserved(DenyReason),
    /// Policy said no.
    Denied(Denial),
    /// Over the rule's limit, for this long.
    Throttled(Duration),
    /// While the answer was fetched the policy changed, and grants something else for the request now. What came back is
    /// thrown away; the caller's next attempt gets what the new policy grants.
    Superseded,
    /// Allowed, and nothing here can answer it.
    NotServed,
    /// A leaf, asked for as JSON.
    LeafNeedsText,
    /// The guard did not help.
    Guard(AskError),
    /// The real service did not help.
    Upstream(Rc<UpstreamError>),
    /// The cloud's token endpoint did not help.
    NotGiven(NotGiven),
    /// AWS: the session token isn't the caller's, or has expired.
    Session,
    /// AWS: no session token could be made.
    Unsealed,
    /// Audit records can't be written, so no credential is given.
    Unaudited,
    /// The caller's own body did not come.
    Body(Ended),
    /// A head that the scanner passed and that does not split into its parts. A defect, refused.
    Unreadable,
}

impl Failure {
    /// The response, in the words of `service`, and the record's words for it.
    pub(crate) fn reply(self, service: Service, record: &mut Record) -> Reply {
        let (outcome, reason) = self.word();
        record.outcome = outcome;
        record.reason = reason;
        let response = respond(service, &self.outcome());
        if let Self::Denied(denial) = self {
            record.denial = Some(denial);
        }
        Reply::Table(response)
    }

    fn outcome(&self) -> Outcome<'_> {
        match self {
            Self::Malformed(malformed) => Outcome::Malformed(*malformed),
            Self::Unserved(reason) => Outcome::Unserved(*reason),
            Self::Denied(denial) => Outcome::Denied(denial),
            Self::Throttled(wait) => Outcome::Throttled {
                retry_after: u32::try_from(wait.as_secs())
                    .map_or(u32::MAX, |s| s.saturating_add(1)),
            },
            Self::NotServed => Outcome::NotServed,
            Self::Session => Outcome::Unauthorized,
            Self::LeafNeedsText => Outcome::LeafNeedsText,
            Self::Guard(AskError::Busy) | Self::Superseded => Outcome::UpstreamSlow,
            Self::Guard(AskError::Gone) => Outcome::UpstreamAway,
            Self::Guard(_)
            | Self::Unaudited
            | Self::Unsealed
            | Self::Unreadable
            | Self::Body(_) => Outcome::Internal,
            Self::NotGiven(why) => not_given(why),
            Self::Upstream(error) => match &**error {
                UpstreamError::Connect(..)
                | UpstreamError::Place(AskError::Refused(_) | AskError::Gone) => {
                    Outcome::UpstreamAway
                }
                UpstreamError::Late
                | UpstreamError::SessionLate
                | UpstreamError::Place(AskError::Busy) => Outcome::UpstreamSlow,
                UpstreamError::Mark(_) | UpstreamError::Request(_) | UpstreamError::Place(_) => {
                    Outcome::Internal
                }
                UpstreamError::Broken(_)
                | UpstreamError::Body(_)
                | UpstreamError::Redirect
                | UpstreamError::NoCredential
                | UpstreamError::NoTree
                | UpstreamError::NoSession(_)
                | UpstreamError::SessionToken
                | UpstreamError::Interim => Outcome::UpstreamBroken,
            },
        }
    }

    fn word(&self) -> (audit::Outcome, Option<&'static str>) {
        use audit::Outcome as Word;
        match self {
            Self::Malformed(malformed) => (Word::Refused, Some(malformed.name())),
            Self::Unserved(DenyReason::CallerChanged) => (Word::Denied, Some("caller_changed")),
            Self::Unserved(DenyReason::Unattributed) => (Word::Denied, Some("unattributed")),
            Self::Unserved(_) => (Word::Denied, Some("guard_denied")),
            Self::Denied(_) => (Word::Denied, None),
            Self::Throttled(_) => (Word::Throttled, Some("rate_limit")),
            Self::Superseded => (Word::Failed, Some("policy_changed")),
            Self::NotServed => (Word::Failed, Some("not_served")),
            Self::LeafNeedsText => (Word::Refused, Some("leaf_needs_text")),
            Self::Guard(_) => (Word::Failed, Some("guard")),
            Self::Upstream(error) => match **error {
                UpstreamError::Place(_) => (Word::Failed, Some("out_of_reach")),
                _ => (Word::Failed, Some("upstream")),
            },
            Self::NotGiven(NotGiven::Cloud(why)) => match **why {
                NotObtained::Refused { .. } => (Word::Failed, Some("cloud_refused")),
                NotObtained::Throttled { .. } => (Word::Throttled, Some("cloud_throttled")),
                _ => (Word::Failed, Some("exchange")),
            },
            Self::NotGiven(_) => (Word::Failed, Some("exchange")),
            Self::Session => (Word::Refused, Some("session_token")),
            Self::Unsealed => (Word::Failed, Some("session_token")),
            Self::Unaudited => (Word::Failed, Some("unaudited")),
            Self::Unreadable => (Word::Failed, Some("unreadable")),
            Self::Body(_) => (Word::Aborted, Some("body")),
        }
    }
}

/// Of an exchange that gave nothing. What the cloud said in full is in the operator's log.
fn not_given(why: &NotGiven) -> Outcome<'_> {
    use respond::NotGiven as Told;
    let told = match why {
        NotGiven::Cloud(why) => match &**why {
            NotObtained::Throttled { retry_after } => {
                return Outcome::Throttled {
                    retry_after: retry_after.unwrap_or(1),
                };
            }
            NotObtained::Refused { code, .. } => Told::Refused {
                code: code.as_str(),
            },
            NotObtained::Unavailable { .. } | NotObtained::Unable { .. } => Told::Away,
            NotObtained::NotAnAnswer(_) => Told::Broken,
        },
        NotGiven::Outbound(error) => match **error {
            OutboundError::Late(_) => Told::Slow,
            OutboundError::Request(_) => return Outcome::Internal,
            OutboundError::Broken(..)
            | OutboundError::Body(..)
            | OutboundError::Redirect(_)
            | OutboundError::Interim(_) => Told::Broken,
            _ => Told::Away,
        },
        NotGiven::Node(why) if why.is_general() => Told::Away,
        // The machine has no identity to ask with: nothing that goes away by trying again.
        NotGiven::Node(_) | NotGiven::NoRegion => Told::Refused { code: "" },
        NotGiven::Late => Told::Slow,
        NotGiven::Guard(_) | NotGiven::Unfit => return Outcome::Internal,
    };
    Outcome::NotGiven(told)
}

impl From<NotGiven> for Failure {
    fn from(why: NotGiven) -> Self {
        match why {
            NotGiven::Guard(error) => error.into(),
            other => Self::NotGiven(other),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        tracing::error!(%error, "a defect");
        Self::Unsealed
    }
}

impl From<InstanceFault> for Failure {
    fn from(fault: InstanceFault) -> Self {
        match fault {
            InstanceFault::NotFound => Self::NotServed,
            InstanceFault::LeafNeedsText => Self::LeafNeedsText,
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(Refusal::Unattributed) => Self::Unserved(DenyReason::Unattributed),
            AskError::Refused(Refusal::CallerGone | Refusal::CallerChanged) => {
                Self::Unserved(DenyReason::CallerChanged)
            }
            AskError::Refused(Refusal::Denied(reason)) => Self::Unserved(reason),
            AskError::Refused(Refusal::Busy) => Self::Guard(AskError::Busy),
            other => {
                tracing::warn!(error = %other, "the guard did not answer as asked");
                Self::Guard(other)
            }
        }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        tracing::warn!(%error, "forward failed");
        Self::Upstream(Rc::new(error))
    }
}

/// What others who ask for the same credential would run into as well. A refusal is about one caller and never is.
impl credentials::Failure for AskError {
    fn is_general(&self) -> bool {
        match self {
            Self::Busy | Self::Gone => true,
            Self::Refused(refusal) => {
                matches!(
                    refusal,
                    Refusal::Busy | Refusal::NoKey | Refusal::NoAssertion | Refusal::Internal
                )
            }
            Self::Unsayable(_) | Self::Mismatch => false,
        }
    }
}
