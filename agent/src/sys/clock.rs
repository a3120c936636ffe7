//! The kernel's clocks, as BPF programs read them.

use std::time::Duration;

/// `CLOCK_MONOTONIC`, which `bpf_ktime_get_ns` tells: zero is the machine's start.
#[must_use]
pub fn monotonic() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec. It can't fail: the clock is there on every kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(now.tv_sec)) + Duration::from_nanos(part(now.tv_nsec))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_on() {
        let before = super::monotonic();
        assert!(!before.is_zero() && super::monotonic() >= before);
    }
}
