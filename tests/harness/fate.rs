//! What becomes of somebody who tries to get the real service's token, and what is to become of them by mode.

use std::net::IpAddr;

/// What became of one attempt to get the real service's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It came, and the service saw this address.
    Obtained(IpAddr),
    /// It didn't, and nothing reached the service. What the caller saw: an errno's text, or a status.
    Nothing(String),
}

impl Outcome {
    /// The address that the service saw, where the token came.
    #[must_use]
    pub const fn from(&self) -> Option<IpAddr> {
        match self {
            Self::Obtained(from) => Some(*from),
            Self::Nothing(_) => None,
        }
    }
}

/// What can be done for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Steered in audit and in enforce; a grant serves it there.
    Steered,
    /// Left untouched in audit, for it has a filter of its own; steered and served in enforce.
    Filtered,
    /// The same, and its filter drops what is steered.
    FilteredOut,
    /// Its socket is bound to a device for good: left untouched in audit, refused in enforce.
    Bound,
}

impl Fate {
    /// Whether an enforced grant gives it the token, as the host.
    #[must_use]
    pub const fn granted(self) -> bool {
        matches!(self, Self::Steered | Self::Filtered)
    }

    /// What is recorded of one attempt in audit: `event`, and the reason of one that was not steered.
    #[must_use]
    pub const fn recorded(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Steered => ("exchange", None),
            Self::Filtered | Self::FilteredOut => ("observed", Some("filtered")),
            Self::Bound => ("observed", Some("bound_to_device")),
        }
    }
}
