//! The hand-over: from the connecting socket's storage to the accepted socket's, by way of a table that holds one entry
//! for the length of one handshake.
//!
//! The entry is written before the SYN leaves and taken when the listener's side is established, hence before
//! `accept()` can return: no look-up by address after the fact, no race with a reused port.
//!
//! Addresses and ports alone don't say which handshake it is: whoever translates addresses in a network namespace
//! (CAP_NET_ADMIN there) can send a SYN of its own from the port of a caller whose own SYN it drops. So an entry counts only
//! once its own socket is established, which is before its last word leaves, and only for the sequence number that this word has.

use core::{
    ffi::c_void,
    ptr::{addr_of, null_mut, read_volatile},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_delete,
        bpf_sk_storage_get,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use imds_guard_ebpf::{
    AF_INET, CallerRecord, Counter, Handshake, HandshakeKey, Mode, ObserveEvent, missing,
};

use crate::{
    globals::proxy_port,
    maps::{EVENTS, HANDSHAKES, OVERFLOW, count, records},
};

const TCP_CLOSE: u32 = 7;
const IPPROTO_TCP: u32 = 6;
const MAPPED: u32 = 0xffffu32.to_be();
/// How long the accepting side may be behind a caller that has closed, in nanoseconds: its packets wait for a busy processor.
/// Well below the 274 s after which the kernel gives one pair of ports the same sequence number again.
const LATE: u64 = 10_000_000_000;

/// Runs at many moments of every TCP socket below the attach root: the common ones leave after one comparison.
#[sock_ops]
pub(crate) fn established(ctx: SockOpsContext) -> u32 {
    // SAFETY: a context member.
    let op = unsafe { (*ctx.ops).op };
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        begin(&ctx);
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        confirm(&ctx);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        hand_over(&ctx);
    } else if op == BPF_SOCK_OPS_STATE_CB {
        abandon(&ctx);
    }
    1
}

/// Which end of the connection a key names.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Local,
    Remote,
}

/// The key of one end.
#[inline(always)]
fn key(ctx: &SockOpsContext, end: End) -> HandshakeKey {
    let mut key = HandshakeKey {
        netns_cookie: 0,
        address: [0; 16],
        port: 0,
        reserved: 0,
    };
    // SAFETY: the program's own context, and a live key.
    unsafe { handshake_key(ctx.ops, &raw mut key, u32::from(end == End::Local)) };
    key
}

/// Fills in the key of the `local` (1) or the remote end (0). Verified by itself (see `caller.rs`): what follows is then read
/// once, and not once for each family.
///
/// # Safety
/// `ops` is the program's context. Volatile reads keep LLVM from merging words into 64-bit loads.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn handshake_key(
    ops: *mut bpf_sock_ops,
    key: *mut HandshakeKey,
    local: u32,
) -> u32 {
    // SAFETY: as promised.
    let Some(key) = (unsafe { key.as_mut() }) else {
        return 0;
    };
    let local = local != 0;
    // SAFETY: context members of allowed widths.
    unsafe {
        let words = match ((*ops).family == u32::from(AF_INET), local) {
            (true, true) => [0, 0, MAPPED, (*ops).local_ip4],
            (true, false) => [0, 0, MAPPED, (*ops).remote_ip4],
            (false, true) => words(addr_of!((*ops).local_ip6).cast()),
            (false, false) => words(addr_of!((*ops).remote_ip6).cast()),
        };
        key.netns_cookie = bpf_get_netns_cookie(ops.cast());
        key.address = core::mem::transmute::<[u32; 4], [u8; 16]>(words);
        key.port = if local {
            (*ops).local_port
        } else {
            u32::from_be((*ops).remote_port)
        };
    }
    1
}

/// # Safety
/// `ip` is a member of the program's context.
#[inline(always)]
unsafe fn words(ip: *const u32) -> [u32; 4] {
    // SAFETY: as promised.
    unsafe {
        [
            read_volatile(ip),
            read_volatile(ip.add(1)),
            read_volatile(ip.add(2)),
            read_volatile(ip.add(3)),
        ]
    }
}

/// Host order: the context has it big-endian in 32 bits, unlike `local_port`.
#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> u32 {
    // SAFETY: a context member.
    u32::from_be(unsafe { (*ctx.ops).remote_port })
}

#[inline(always)]
fn sk(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: a context member; null is checked by each user.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

/// The SYN of a steered socket is about to leave.
#[inline(always)]
fn begin(ctx: &SockOpsContext) {
    if remote_port(ctx) != u32::from(proxy_port()) {
        return;
    }
    let sk = sk(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: look-up only.
    let record = unsafe { bpf_sk_storage_get(records(), sk, null_mut(), 0) } as *const CallerRecord;
    if record.is_null() {
        return;
    }
    count(Counter::HandshakeBegun);
    // SAFETY: non-null map value; this socket's own context.
    unsafe {
        let key = key(ctx, End::Local);
        let handshake = Handshake {
            record: *record,
            closed: 0,
            sequence: 0,
            established: 0,
        };
        if HANDSHAKES.insert(key, &handshake, 0).is_err() {
            count(Counter::HandshakeTableFull);
            // Whatever an earlier socket of this port has left: a failed insert must not let it stand for this one.
            let _gone = HANDSHAKES.remove(key);
            if OVERFLOW.insert(key, &handshake, 0).is_err() {
                return;
            }
        }
    }
    // Without the callback an entry of a connection that never gets established would stay; the flag can't fail here
    // except for a socket that is no full socket, which a connecting one is.
    let _unused = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// A steered socket is established; its last word of the handshake is about to leave, and has this sequence number.
#[inline(always)]
fn confirm(ctx: &SockOpsContext) {
    if remote_port(ctx) != u32::from(proxy_port()) {
        return;
    }
    // SAFETY: own context; each entry is only written by the program of its own socket.
    unsafe {
        let key = key(ctx, End::Local);
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        let sequence = read_volatile(addr_of!((*ctx.ops).snd_una));
        let mut own = HANDSHAKES.get_ptr_mut(key);
        if own.is_none() {
            own = OVERFLOW.get_ptr_mut(key);
        }
        if let Some(handshake) = own
            && (*handshake).record.socket_cookie == cookie
        {
            (*handshake).sequence = sequence;
            (*handshake).established = 1;
        }
    }
}

/// Whether the accepting side's handshake, in which `sequence` comes next, is this one.
///
/// # Safety
/// `handshake` is an entry of a table.
#[inline(always)]
unsafe fn is_this(handshake: *const Handshake, sequence: u32) -> bool {
    // SAFETY: as promised; the helper takes no arguments.
    unsafe {
        let closed = (*handshake).closed;
        (*handshake).established != 0
            && (*handshake).sequence == sequence
            && (closed == 0 || bpf_ktime_get_ns().wrapping_sub(closed) < LATE)
    }
}

/// A connection to the listener is established on the listener's side.
#[inline(always)]
fn hand_over(ctx: &SockOpsContext) {
    // SAFETY: a context member.
    if unsafe { (*ctx.ops).local_port } != u32::from(proxy_port()) {
        return;
    }
    let sk = sk(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: own context; the entry is used before it is removed.
    let counter = unsafe {
        let key = key(ctx, End::Remote);
        let sequence = read_volatile(addr_of!((*ctx.ops).rcv_nxt));
        if let Some(handshake) = HANDSHAKES.get_ptr(key)
            && is_this(handshake, sequence)
        {
            let stored = store(sk, addr_of!((*handshake).record));
            settle(sk, stored, HANDSHAKES.remove(key).is_ok())
        } else if let Some(handshake) = OVERFLOW.get_ptr(key)
            && is_this(handshake, sequence)
        {
            let stored = store(sk, addr_of!((*handshake).record));
            settle(sk, stored, OVERFLOW.remove(key).is_ok())
        } else {
            Counter::NoHandshake
        }
    };
    count(counter);
}

/// Copies an entry into the accepted socket's storage; whether there was room.
///
/// # Safety
/// `sk` is the context's socket, `record` an entry of a table.
#[inline(always)]
unsafe fn store(sk: *mut c_void, record: *const CallerRecord) -> bool {
    // SAFETY: as promised; the helper copies the value.
    let child = unsafe {
        bpf_sk_storage_get(
            records(),
            sk,
            record as *mut c_void,
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    !child.is_null()
}

/// A copy counts only if its entry was still there afterwards. If not, the caller's end or an eviction removed it
/// meanwhile, and its memory may have been given to another caller's entry while it was copied.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
unsafe fn settle(sk: *mut c_void, stored: bool, was_there: bool) -> Counter {
    match (stored, was_there) {
        (false, _) => Counter::NoChildStorage,
        (true, true) => Counter::HandedOver,
        (true, false) => {
            // SAFETY: as promised.
            unsafe { bpf_sk_storage_delete(records(), sk) };
            Counter::NoHandshake
        }
    }
}

/// A steered socket was closed. What it leaves behind of a handshake that it never ended goes, unless the port has a new owner
/// already. Of one that it has ended, the accepting side may be a moment behind: a caller that resets at once is told apart
/// from others all the same.
#[inline(always)]
fn abandon(ctx: &SockOpsContext) {
    if ctx.arg(1) != TCP_CLOSE {
        return;
    }
    // SAFETY: own context; each entry is only written by the program of its own socket.
    unsafe {
        let key = key(ctx, End::Local);
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        if let Some(handshake) = HANDSHAKES.get_ptr(key) {
            if (*handshake).record.socket_cookie != cookie {
                return;
            }
            if (*handshake).established != 0 {
                set_aside(key, &*handshake);
                return;
            }
            tell(&(*handshake).record);
            let _gone = HANDSHAKES.remove(key);
            count(Counter::HandshakeAbandoned);
        } else if let Some(handshake) = OVERFLOW.get_ptr_mut(key)
            && (*handshake).record.socket_cookie == cookie
        {
            if (*handshake).established != 0 {
                (*handshake).closed = bpf_ktime_get_ns();
                return;
            }
            tell(&(*handshake).record);
            let _gone = OVERFLOW.remove(key);
            count(Counter::HandshakeAbandoned);
        }
    }
}

/// Moves an entry to where it falls out by itself. The copy first: the accepting side finds one of them all the time.
///
/// # Safety
/// In the program of the entry's own socket.
#[inline(always)]
unsafe fn set_aside(key: HandshakeKey, handshake: &Handshake) {
    // SAFETY: no arguments.
    let closed = unsafe { bpf_ktime_get_ns() };
    let late = Handshake {
        closed,
        ..*handshake
    };
    if OVERFLOW.insert(key, &late, 0).is_ok() && HANDSHAKES.remove(key).is_err() {
        // The accepting side was faster.
        let _gone = OVERFLOW.remove(key);
    }
}

/// Says of a caller with cgroup filters of its own that it never arrived: they drop what goes to the loopback, and its
/// connect has timed out, which tells nobody why. Of others it says nothing, for anybody can begin handshakes and not end them.
#[inline(always)]
fn tell(record: &CallerRecord) {
    if record.has(missing::REACH) {
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<ObserveEvent>(0) else {
        count(Counter::EventLost);
        return;
    };
    slot.write(ObserveEvent {
        record: *record,
        protocol: IPPROTO_TCP,
        mode: Mode::Enforce as u32,
        why: Counter::HandshakeAbandoned as u32,
        reserved: 0,
    });
    slot.submit(0);
}
