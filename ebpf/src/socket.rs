//! What the caller's socket itself tells: the device that it is bound to, its mark, whose it is, and which filters stand
//! between it and the network. All of it decides what the caller could reach without us, so all of it has to hold for
//! whoever dials in its place.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut, read_volatile},
};

use aya_ebpf::{
    EbpfContext, bindings::bpf_sock, helpers::bpf_setsockopt, programs::SockAddrContext,
};
use imds_guard_ebpf::{CallerRecord, missing};

use crate::{caller::read, globals::offset, maps::SHARED_FILTERS};

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
/// Filters that are looked at in each direction. Who has more counts as having a foreign one.
const FILTERS: u64 = 16;

/// Index of the device that the context's socket is bound to, 0 for none.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
pub(crate) unsafe fn device(sk: *mut c_void) -> u32 {
    // SAFETY: as promised; every kind of program may read this member.
    unsafe { read_volatile(addr_of!((*sk.cast::<bpf_sock>()).bound_dev_if)) }
}

/// Binds the context's socket to the loopback, whose listener it could not reach while it is bound to another device. Not
/// to no device: then whoever is confined to one would be set free by dialling us and disconnecting. Whether that worked:
/// the kernel lets a process without CAP_NET_RAW over the namespace bind a socket once only, also by our hand.
#[inline(always)]
pub(crate) fn bind_to_loopback(ctx: &SockAddrContext) -> bool {
    let mut name = *b"lo\0\0";
    // SAFETY: the program's own context, and a live buffer of that length.
    let done = unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            SO_BINDTODEVICE,
            addr_of_mut!(name).cast(),
            3,
        )
    };
    done == 0
}

/// What an upstream socket has to be like, to reach what this one would reach.
#[inline(always)]
pub(crate) fn shape(record: &mut CallerRecord, sock: u64) -> u32 {
    record.mark = 0;
    record.owner_uid = 0;
    record.owner_gid = 0;
    let mut gone = missing::MARK | missing::OWNER;
    if let Some(mark) = read::<u32>(sock, offset!(sock_mark)) {
        record.mark = mark;
        gone &= !missing::MARK;
    }
    // A subflow of MPTCP has no file.
    if let Some(socket) = read::<u64>(sock, offset!(sock_socket))
        && socket != 0
        && let Some(file) = read::<u64>(socket, offset!(socket_file))
        && file != 0
        && let Some(cred) = read::<u64>(file, offset!(file_cred))
        && let Some(uid) = read::<u32>(cred, offset!(cred_fsuid))
        && let Some(gid) = read::<u32>(cred, offset!(cred_fsgid))
    {
        record.owner_uid = uid;
        record.owner_gid = gid;
        gone &= !missing::OWNER;
    }
    gone
}

/// Whether packets of this socket pass a cgroup_skb program that those of the guard's own sockets don't: `IPAddressDeny=`
/// and the like. What can't be read counts as one.
#[inline(always)]
pub(crate) fn has_foreign_filter(sock: u64) -> bool {
    // SAFETY: a live number.
    unsafe { foreign_filter(&raw const sock) != 0 }
}

/// The same of the socket at `*sock`, verified by itself (see `caller.rs`): its loops are dear to verify.
///
/// # Safety
/// `sock` points to a number; the verifier checks it.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn foreign_filter(sock: *const u64) -> u32 {
    // SAFETY: as promised.
    let Some(&sock) = (unsafe { sock.as_ref() }) else {
        return 1;
    };
    let Some(cgroup) = read::<u64>(sock, offset!(sock_cgroup)) else {
        return 1;
    };
    // `enum cgroup_bpf_attach_type` begins with ingress and egress, since it was made in 5.15.
    u32::from(foreign(cgroup, 0) || foreign(cgroup, 1))
}

#[inline(always)]
fn foreign(cgroup: u64, direction: u64) -> bool {
    let Some(effective) = read::<u64>(cgroup, offset!(cgroup_effective) + direction * 8) else {
        return true;
    };
    let items = offset!(array_items);
    for at in 0..FILTERS {
        let Some(program) = read::<u64>(effective, items + at * offset!(item_size)) else {
            return true;
        };
        if program == 0 {
            return false;
        }
        let Some(aux) = read::<u64>(program, offset!(prog_aux)) else {
            return true;
        };
        let Some(id) = read::<u32>(aux, offset!(aux_id)) else {
            return true;
        };
        // The placeholder of a program that has been detached has no number, and lets everything pass.
        // SAFETY: a look-up; the value isn't used.
        if id != 0 && unsafe { SHARED_FILTERS.get(&id) }.is_none() {
            return true;
        }
    }
    true
}
