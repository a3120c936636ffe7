//! What time it is, for policy and tokens.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in whole seconds. A clock before 1970 counts as 1970: every token is then not yet valid.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
