//! Who passes although the endpoint is guarded: whoever is in the table of bypasses, until its time there is over; and, while no
//! guard lives, the executables that are configured for that, each in its unit.
//!
//! Both questions stand in functions that the kernel verifies by themselves (see `caller.rs`), for connects and packets alike.
//! Must never: let anybody pass for longer than the table says. A socket keeps only *by what* it was let through, and each of its
//! packets is asked anew.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_uid_gid,
    bpf_ktime_get_boot_ns, bpf_ktime_get_ns,
};
use imds_guard_ebpf::{ANY_USER, Counter, Lifeline, Pass, Scope};

use crate::{
    caller,
    maps::{BYPASSES, LIFELINES, lease},
};

/// By what the current process may connect to the endpoint that `pass` names, which is told there; `None`: it is guarded.
#[inline(always)]
pub(crate) fn of_caller(pass: &mut Pass) -> Option<Counter> {
    // SAFETY: a live value.
    match unsafe { exception(pass) } {
        1 => Some(Counter::Bypassed),
        2 => Some(Counter::Lifeline),
        _ => None,
    }
}

/// Whether a socket with this pass may send to that endpoint now.
///
/// # Safety
/// `pass` is a value of the socket's storage.
#[inline(always)]
pub(crate) unsafe fn holds(pass: *const Pass, endpoint_id: u32) -> bool {
    // SAFETY: as promised.
    unsafe { pass_holds(pass, endpoint_id) != 0 }
}

/// # Safety
/// `pass` points to what it says; the verifier checks it.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn exception(pass: *mut Pass) -> u32 {
    // SAFETY: as promised.
    let Some(pass) = (unsafe { pass.as_mut() }) else {
        return 0;
    };
    // SAFETY: no arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let uid = bpf_get_current_uid_gid() as u32;
    for (cgroup, uid) in [(cgroup, uid), (cgroup, ANY_USER), (0, uid)] {
        let scope = Scope {
            cgroup,
            uid,
            reserved: 0,
        };
        if is_open(&scope) {
            pass.scope = scope;
            return 1;
        }
    }
    if is_guarded() {
        return 0;
    }
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let Some((exe_inode, exe_dev)) = caller::image(task) else {
        return 0;
    };
    let lifeline = Lifeline {
        cgroup,
        exe_inode,
        exe_dev,
        endpoint_id: pass.endpoint_id,
    };
    // SAFETY: only whether it is there.
    if unsafe { LIFELINES.get(&lifeline) }.is_none() {
        return 0;
    }
    pass.lifeline = 1;
    2
}

/// # Safety
/// As [`exception`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn pass_holds(pass: *const Pass, endpoint_id: u32) -> u32 {
    // SAFETY: as promised.
    let Some(pass) = (unsafe { pass.as_ref() }) else {
        return 0;
    };
    if pass.endpoint_id != endpoint_id {
        return 0;
    }
    let scope = pass.scope;
    u32::from(match pass.lifeline {
        0 => is_open(&scope),
        _ => !is_guarded(),
    })
}

/// Whether there is such a bypass, and its time isn't over.
#[inline(always)]
fn is_open(scope: &Scope) -> bool {
    // SAFETY: a number of a value that is replaced as a whole; the helper takes no arguments.
    unsafe {
        BYPASSES
            .get(scope)
            .is_some_and(|bypass| bpf_ktime_get_boot_ns() < bypass.until_ns)
    }
}

/// Whether a guard lives.
#[inline(always)]
fn is_guarded() -> bool {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() <= lease() }
}
