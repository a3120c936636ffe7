//! On an emulated processor: fewer of what proves by mass (`IMDS_GUARD_SCALE`, a divisor), more time for what takes any
//! (`IMDS_GUARD_PATIENCE`, a factor), and one signing key for all tests (`IMDS_GUARD_KEY`, a file), for making one takes
//! seconds there. Without these variables nothing changes.

use std::path::Path;
use std::time::Duration;

/// `count`, divided by what `IMDS_GUARD_SCALE` says, and never less than 8 of it.
#[must_use]
pub fn scaled(count: u64) -> u64 {
    divided(count, number("IMDS_GUARD_SCALE"))
}

/// How long to wait for what takes `limit` at most on a real processor.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    let factor = number("IMDS_GUARD_PATIENCE").unwrap_or(1);
    limit.saturating_mul(u32::try_from(factor.clamp(1, 1000)).unwrap_or(1))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Put the common key, where there is one, into a new state directory.
pub(crate) fn lend_key(state: &Path) -> std::io::Result<()> {
    match std::env::var_os("IMDS_GUARD_KEY") {
        // Copied with its mode.
        Some(key) if Path::new(&key).exists() => std::fs::copy(key, state.join(KEY)).map(drop),
        _ => Ok(()),
    }
}

/// Keep the first key that a test made as the common one.
pub(crate) fn keep_key(state: &Path) {
    if let Some(key) = std::env::var_os("IMDS_GUARD_KEY")
        && !Path::new(&key).exists()
    {
        let _made_none = std::fs::copy(state.join(KEY), key);
    }
}

const KEY: &str = "issuer-key.json";

fn divided(count: u64, divisor: Option<u64>) -> u64 {
    let fewer = count / divisor.unwrap_or(1).max(1);
    fewer.max(8).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divisor_makes_it_fewer_but_never_none() {
        assert_eq!(divided(40_000, None), 40_000);
        assert_eq!(divided(40_000, Some(0)), 40_000);
        assert_eq!(divided(40_000, Some(20)), 2000);
        assert_eq!(divided(40, Some(20)), 8);
        assert_eq!(divided(4, Some(20)), 4);
    }
}
