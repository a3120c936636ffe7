//! Read-only globals that the loader fills in before the programs are verified, so that the verifier sees constants.
//! Read through `read_volatile`: the compiler must not fold the zeroes written here.

use core::ptr::{addr_of, read_volatile};

use imds_guard_ebpf::{EndpointKey, Issuer, Offsets, Passage};

#[unsafe(no_mangle)]
static PROXY_PORT: u16 = 0;

#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_group_leader: 0,
    task_start_boottime: 0,
    task_real_parent: 0,
    task_tgid: 0,
    task_comm: 0,
    task_cred: 0,
    task_mm: 0,
    cred_euid: 0,
    cred_egid: 0,
    mm_exe_file: 0,
    file_inode: 0,
    inode_ino: 0,
    inode_sb: 0,
    sb_dev: 0,
    sock_cgroup: 0,
    sock_backlog: 0,
    cgroup_kn: 0,
    kernfs_id: 0,
    task_thread_pid: 0,
    pid_ino: 0,
    pid_level: 0,
    pid_numbers: 0,
    pid_namespace_inum: 0,
    task_nsproxy: 0,
    nsproxy_net: 0,
    net_inum: 0,
    sock_mark: 0,
    sock_socket: 0,
    socket_file: 0,
    file_cred: 0,
    cred_fsuid: 0,
    cred_fsgid: 0,
    cgroup_effective: 0,
    array_items: 0,
    item_size: 0,
    prog_aux: 0,
    aux_id: 0,
};

#[unsafe(no_mangle)]
static PID_NAMESPACE: u32 = 0;

#[unsafe(no_mangle)]
static HOST_NETNS: u32 = 0;

#[unsafe(no_mangle)]
static PASSAGE: Passage = Passage {
    mark: 0,
    priority: 0,
};

#[unsafe(no_mangle)]
static ISSUER: Issuer = Issuer {
    at: EndpointKey {
        address: [0; 16],
        port: 0,
    },
    reserved: 0,
    netns_cookie: 0,
};

/// Port of the guard's listeners, host order.
#[inline(always)]
pub(crate) fn proxy_port() -> u16 {
    // SAFETY: a static of this program; the loader replaced its bytes by a `u16`.
    unsafe { read_volatile(addr_of!(PROXY_PORT)) }
}

/// Inode of the guard's pid namespace, or 0 where that is the first one.
#[inline(always)]
pub(crate) fn pid_namespace() -> u32 {
    // SAFETY: a static of this program; the loader replaced its bytes by a `u32`.
    unsafe { read_volatile(addr_of!(PID_NAMESPACE)) }
}

/// Inode of the guard's network namespace.
#[inline(always)]
pub(crate) fn host_netns() -> u32 {
    // SAFETY: a static of this program; the loader replaced its bytes by a `u32`.
    unsafe { read_volatile(addr_of!(HOST_NETNS)) }
}

/// What the proxy's packets carry to the uplink.
#[inline(always)]
pub(crate) fn passage() -> Passage {
    // SAFETY: a static of this program; the loader replaced its bytes by a `Passage`.
    unsafe { read_volatile(addr_of!(PASSAGE)) }
}

/// Where the issuer listens.
#[inline(always)]
pub(crate) fn issuer() -> Issuer {
    // SAFETY: a static of this program; the loader replaced its bytes by an `Issuer`.
    unsafe { read_volatile(addr_of!(ISSUER)) }
}

/// One member of [`Offsets`] of the running kernel.
macro_rules! offset {
    ($member:ident) => {
        $crate::globals::offset_at(core::mem::offset_of!(imds_guard_ebpf::Offsets, $member))
    };
}
pub(crate) use offset;

#[inline(always)]
pub(crate) fn offset_at(at: usize) -> u64 {
    // SAFETY: `at` comes from `offset_of!` of a `u32` member.
    unsafe {
        u64::from(read_volatile(
            addr_of!(OFFSETS).cast::<u8>().add(at).cast::<u32>(),
        ))
    }
}
