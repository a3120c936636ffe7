//! What a cloud's token endpoint gave, kept while it lasts, and why one gave nothing. The caller hears the latter in its own
//! dialect, with the cloud's code and no more; the operator's log has the sentence and the remedy.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::audit::Fingerprint;
use imds_guard_core::exchange::{NotObtained, Obtained};
use imds_guard_core::policy::Identity;

use super::kept::Unforwarded;
use crate::credentials::{self, Credential, FAILURE_KEPT, Via};
use crate::outbound::OutboundError;
use crate::proxy::seam::AskError;

/// boto3 stretches by itself what has less left, up to 20 minutes, for it believes that the service is out of order; a little more,
/// for it looks when it uses what it has got.
pub(super) const LEAST_AWS: i64 = 25 * 60;
/// Clients ask for a newer token when an older one has so much left: the same one again would be no answer.
const LEAST_BEARER: i64 = 5 * 60;

/// A credential that a cloud gave.
#[derive(Debug)]
pub(crate) struct Given {
    pub(super) obtained: Obtained,
    pub(super) received: i64,
    /// What the record shows of it.
    pub(super) id: Arc<str>,
}

impl Credential for Given {
    fn issued(&self) -> i64 {
        self.received
    }
    fn expires(&self) -> i64 {
        self.obtained.expires()
    }
    fn least(&self) -> i64 {
        match self.obtained {
            Obtained::Aws(_) => LEAST_AWS,
            Obtained::Bearer { .. } => LEAST_BEARER,
        }
    }
}

impl Given {
    /// What the record says of it.
    pub(super) fn fingerprint(&self, identity: &Identity, via: Via) -> Fingerprint {
        Fingerprint {
            jti: Arc::clone(&self.id),
            identity: Arc::clone(&identity.name),
            expires: self.obtained.expires(),
            cached: via.is_cached(),
        }
    }
}

/// Why there is none. As the operator reads it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NotGiven {
    /// The guard has no assertion for this caller.
    #[error("{0}")]
    Guard(AskError),
    /// The endpoint can't be asked.
    #[error("{0}")]
    Outbound(Rc<OutboundError>),
    /// It answered, and gave nothing.
    #[error("{0}")]
    Cloud(Rc<NotObtained>),
    /// The node's own credential isn't to be had, with which it would be asked.
    #[error("the machine's own credential isn't to be had: {0}")]
    Node(Unforwarded),
    /// AWS: nobody says in which region.
    #[error(
        "neither the identity nor the metadata service says in which region: write region = \"us-west-2\" in the identity"
    )]
    NoRegion,
    /// It didn't come while the caller waited, and may still.
    #[error("it didn't come in time")]
    Late,
    /// The rule's identity and what is asked don't fit together. A defect.
    #[error("a defect: the identity and what is asked don't fit together")]
    Unfit,
}

/// The longest that a throttled endpoint is left alone, whatever it says.
const THROTTLED_MOST: u32 = 3600;
/// And what it is left alone where it says nothing: MSAL's figure.
const THROTTLED: u32 = 5;

impl credentials::Failure for NotGiven {
    fn is_general(&self) -> bool {
        match self {
            Self::Guard(error) => error.is_general(),
            Self::Outbound(_) | Self::NoRegion | Self::Late => true,
            Self::Node(why) => why.is_general(),
            Self::Cloud(why) => why.is_general(),
            Self::Unfit => false,
        }
    }

    fn lasts(&self) -> Duration {
        match self {
            Self::Cloud(why) => match **why {
                NotObtained::Throttled { retry_after } => {
                    Duration::from_secs(retry_after.unwrap_or(THROTTLED).min(THROTTLED_MOST).into())
                }
                _ => FAILURE_KEPT,
            },
            _ => FAILURE_KEPT,
        }
    }
}

impl From<AskError> for NotGiven {
    fn from(error: AskError) -> Self {
        Self::Guard(error)
    }
}
