//! Sockets that make their own packets, refused as they are made: the only place where AF_XDP can be stopped. Off unless
//! configured, and loaded only then; a kernel that takes no LSM programs goes without.

use aya_ebpf::{
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel},
    macros::lsm,
    programs::LsmContext,
};
use imds_guard_ebpf::Counter;

use crate::{
    globals::{host_netns, offset},
    maps::{RAW_SOCKETS, count},
};

const EPERM: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_PACKET: i32 = 17;
const AF_XDP: i32 = 44;
const SOCK_RAW: i32 = 3;
/// The low bits of `socket()`'s type; the others are flags.
const TYPE: i32 = 0xf;
/// How deep an allowed cgroup may be for those below it to be allowed with it.
const LEVELS: i32 = 16;

/// `socket_create(family, type, protocol, kern)`, and what programs before this one said.
#[lsm(hook = "socket_create")]
pub(crate) fn raw_socket(ctx: LsmContext) -> i32 {
    let (family, kind, kernels, said): (i32, i32, i32, i32) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(3), ctx.arg(4));
    if said != 0 || kernels != 0 {
        return said;
    }
    let raw = match family {
        AF_PACKET | AF_XDP => true,
        AF_INET | AF_INET6 => kind & TYPE == SOCK_RAW,
        _ => false,
    };
    if !raw || !in_host_netns() || allowed() {
        return 0;
    }
    count(Counter::RawSocketRefused);
    -EPERM
}

/// Whether the process is in the guard's network namespace. Unknown: treated as if it were.
#[inline(always)]
fn in_host_netns() -> bool {
    let read = |base: u64, at: u64| {
        // SAFETY: the helper checks the address and fails rather than faults.
        unsafe { bpf_probe_read_kernel((base + at) as *const u64) }.ok()
    };
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let Some(inode) = read(task, offset!(task_nsproxy))
        .and_then(|proxy| read(proxy, offset!(nsproxy_net)))
        .and_then(|net| read(net, offset!(net_inum)))
    else {
        return true;
    };
    // The kernel numbers namespaces with 32 bits.
    inode as u32 == host_netns()
}

/// Whether the process' cgroup, or one above it, is a configured one.
#[inline(always)]
fn allowed() -> bool {
    for level in 0..LEVELS {
        // SAFETY: no pointers.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            return false;
        }
        // SAFETY: only whether it is there is asked.
        if unsafe { RAW_SOCKETS.get(&id) }.is_some() {
            return true;
        }
    }
    false
}
