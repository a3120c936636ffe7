//! The kernel's clocks, as BPF programs read them.

use std::time::Duration;

/// `CLOCK_MONOTONIC`, which `bpf_ktime_get_ns` tells: zero is the machine's start.
#[must_use]
pub fn monotonic() -> Duration {
    of(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_BOOTTIME`, which `bpf_ktime_get_boot_ns` tells: the same, but it runs on while the machine is suspended.
#[must_use]
pub fn since_boot() -> Duration {
    of(libc::CLOCK_BOOTTIME)
}

fn of(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec. It can't fail: both clocks are there on every kernel.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(now.tv_sec)) + Duration::from_nanos(part(now.tv_nsec))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_on() {
        for clock in [super::monotonic, super::since_boot] {
            let before = clock();
            assert!(!before.is_zero() && clock() >= before);
        }
        let before = super::monotonic();
        assert!(super::since_boot() >= before);
    }
}
