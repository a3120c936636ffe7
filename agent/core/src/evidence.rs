//! Evidence is present, absent, or unavailable. The third state is what keeps a failed attestor from widening access:
//! an allow needs evidence present; a deny also matches where it is unavailable. Never turn `Unavailable` into `Absent`.

use std::sync::Arc;

/// One piece of evidence about a caller.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence<T> {
    /// The attestor looked and found this.
    Present(T),
    /// The attestor looked, and the caller has no such property.
    Absent,
    /// The attestor could not look; why, in words for the operator.
    Unavailable(Arc<str>),
}

impl<T> Evidence<T> {
    /// The value, where there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unavailable(_) => None,
        }
    }
}
