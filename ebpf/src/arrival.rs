//! Network namespaces that no listener serves yet: user space hears of each when its first socket is made, so that the
//! listener stands before that socket connects; and again when a connect finds none.
//!
//! A note, never a decision: nothing here lets a connection pass or fail.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_netns_cookie, bpf_ktime_get_ns,
    },
    macros::cgroup_sock,
    programs::SockContext,
};
use imds_guard_ebpf::{Arrival, Cause, Counter, STANDING};

use crate::{
    caller,
    globals::pid_namespace,
    maps::{ARRIVALS, NAMESPACES, count},
};

/// Within this time a namespace is told of once.
const AGAIN_AFTER_NS: u64 = 100_000_000;

/// Each socket of a user below the attach root, of every family of IP.
#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied at once.
    if unsafe { NAMESPACES.get(&cookie) } != Some(&STANDING) {
        tell(cookie, Cause::Socket);
    }
    1
}

/// Tells user space that this namespace needs a listener, unless it was told just now.
#[inline(always)]
pub(crate) fn tell(cookie: u64, cause: Cause) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the value is copied at once.
    let last = unsafe { NAMESPACES.get(&cookie) }.copied();
    if let Some(last) = last
        && last != STANDING
        && now.wrapping_sub(last) < AGAIN_AFTER_NS
    {
        return;
    }
    let Some(mut slot) = ARRIVALS.reserve::<Arrival>(0) else {
        count(Counter::ArrivalLost);
        return;
    };
    let (tgid, tid) = task();
    // SAFETY: the reserved slot, written as a whole before it is submitted.
    unsafe {
        slot.as_mut_ptr().write(Arrival {
            netns_cookie: cookie,
            at_ns: now,
            tgid,
            tid,
            cause: cause as u32,
            reserved: 0,
        });
    }
    slot.submit(0);
    // A full table (it is an LRU) only means that user space hears of it again.
    let _told = NAMESPACES.insert(cookie, now, 0);
}

/// Process and thread, as the guard numbers them; zeroes outside of its pid namespace.
#[inline(always)]
fn task() -> (u32, u32) {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    match pid_namespace() {
        0 => {
            let both = bpf_get_current_pid_tgid();
            ((both >> 32) as u32, both as u32)
        }
        namespace => (
            caller::tgid_in(namespace, task).unwrap_or(0),
            caller::tid_in(namespace, task).unwrap_or(0),
        ),
    }
}
