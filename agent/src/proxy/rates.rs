//! The `limit` of a rule: at most so many exchanges in so many seconds, per (workload, rule). A token bucket that holds one
//! `Limit`'s worth. Counts only permitted requests; a refusal never uses up anyone's allowance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::decision::Permit;
use tokio::time::Instant;

/// All buckets. Bounded by the number of rules with a limit in the policy: a new epoch starts with new buckets.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    buckets: RefCell<HashMap<Key, Bucket>>,
}

/// Workload and rule.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Rates {
    /// Takes one from the permit's bucket.
    ///
    /// # Errors
    /// How long until there is one again.
    pub(crate) fn take(&self, permit: &Permit) -> Result<(), Duration> {
        let Some(limit) = permit.limit() else {
            return Ok(());
        };
        let key = (
            Arc::clone(permit.workload()),
            Arc::clone(&permit.rule().name),
        );
        self.draw(key, limit.count, limit.per_seconds, Instant::now())
    }

    fn draw(
        &self,
        key: (Arc<str>, Arc<str>),
        count: u32,
        per_seconds: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let full = f64::from(count);
        let per_second = full / f64::from(per_seconds.max(1));
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry(key).or_insert(Bucket {
            tokens: full,
            filled: now,
        });
        let refill = now.duration_since(bucket.filled).as_secs_f64() * per_second;
        bucket.tokens = (bucket.tokens + refill).min(full);
        bucket.filled = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        if per_second == 0.0 {
            return Err(Duration::from_secs(u64::from(per_seconds)));
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
    }

    /// Forgets every bucket: the policy has changed, and with it what the limits mean.
    pub(crate) fn clear(&self) {
        self.buckets.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (Arc<str>, Arc<str>) {
        ("billing".into(), "vault".into())
    }

    #[test]
    fn a_burst_of_the_limit_passes_and_the_next_waits() {
        let (rates, start) = (Rates::default(), Instant::now());
        for _ in 0..5 {
            rates.draw(key(), 5, 1, start).unwrap();
        }
        let wait = rates.draw(key(), 5, 1, start).unwrap_err();
        assert!(wait <= Duration::from_millis(200), "{wait:?}");
        rates.draw(key(), 5, 1, start + wait).unwrap();
        rates.draw(key(), 5, 1, start + wait).unwrap_err();
    }

    #[test]
    fn rules_do_not_share_a_bucket() {
        let (rates, start) = (Rates::default(), Instant::now());
        rates.draw(key(), 1, 60, start).unwrap();
        let wait = rates.draw(key(), 1, 60, start).unwrap_err();
        assert_eq!(wait.as_secs(), 60);
        rates
            .draw(("billing".into(), "storage".into()), 1, 60, start)
            .unwrap();
    }

    #[test]
    fn a_limit_of_nothing_never_passes() {
        let (rates, start) = (Rates::default(), Instant::now());
        rates.draw(key(), 0, 1, start).unwrap_err();
        rates
            .draw(key(), 0, 1, start + Duration::from_secs(3600))
            .unwrap_err();
    }
}
