//! Shares of the listener's queue. Connections that the proxy hasn't accepted yet wait in one queue per namespace; whoever
//! connects faster than it accepts would fill that, and everybody else's SYN would be dropped, to come again after a second.
//!
//! So while more than a few wait, each caller may begin only so many connections in a stretch of time; what is beyond is
//! refused at once, and dialling again works. While few wait, nobody is counted.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_ktime_get_ns};
use imds_guard_ebpf::{Holder, Share};

use crate::maps::SHARES;

/// So many may wait before anybody is counted, so a caller that keeps 64 connections going is never: the proxy accepts them
/// within 5 ms, or 100 ms on a machine with no processor to spare.
pub(crate) const CROWDED: u32 = 64;
/// The stretch of time.
const STRETCH_NS: u64 = 100_000_000;
/// Connections of one cgroup and user in it: 160 a second, a tenth of what the proxy answers at its slowest.
const EACH: u32 = 16;
/// Of one user who isn't root, in however many cgroups: who has a delegated tree makes as many as it likes.
const USER: u32 = 64;

/// Whether the current process has had its share.
#[inline(always)]
pub(crate) fn is_spent() -> bool {
    spent() != 0
}

/// The same, verified by itself (see `caller.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn spent() -> u32 {
    // SAFETY: no arguments.
    let (cgroup, now) = unsafe { (bpf_get_current_cgroup_id(), bpf_ktime_get_ns()) };
    let uid = bpf_get_current_uid_gid() as u32;
    let of = |cgroup| Holder {
        cgroup,
        uid,
        reserved: 0,
    };
    u32::from(spends(&of(cgroup), EACH, now) || (uid != 0 && spends(&of(0), USER, now)))
}

/// Counts one connection. Two CPUs at once may count one for two: that is near enough, and forgotten with the stretch.
#[inline(always)]
fn spends(holder: &Holder, most: u32, now: u64) -> bool {
    if let Some(share) = SHARES.get_ptr_mut(holder) {
        // SAFETY: a checked pointer to a value of this size; see above for who else writes it.
        unsafe {
            if now.wrapping_sub((*share).since_ns) < STRETCH_NS {
                (*share).count += 1;
                return (*share).count > most;
            }
            (*share).since_ns = now;
            (*share).count = 1;
        }
        return false;
    }
    let first = Share {
        since_ns: now,
        count: 1,
        reserved: 0,
    };
    // A table that takes nothing more counts nothing: the queue is bounded all the same.
    let _counted = SHARES.insert(holder, &first, 0);
    false
}
