//! Evidence is present, absent, or unavailable. The third state is what keeps a failed attestor from widening access:
//! an allow needs evidence present; a deny also matches where it is unavailable.

/// One piece of evidence about a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence<T> {
    /// The attestor looked and found this.
    Present(T),
    /// The attestor looked, and the caller has no such property.
    Absent,
    /// The attestor could not look; why, in words for the operator.
    Unavailable(std::sync::Arc<str>),
}
