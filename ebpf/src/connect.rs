//! `connect()`: other destinations go on untouched and cheaply; a guarded one is steered, refused or noted. Attached so that it runs
//! after all others there: whatever they make of a destination, this judges what is dialled in the end.
//!
//! The two programs have bodies of their own because the verifier refuses a `user_ip6` access in a connect4 program;
//! all that follows the address is shared and monomorphic per family of listener.

use core::{
    ffi::c_void,
    mem::{size_of, zeroed},
    ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr, bpf_sock_tuple},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_set_retval,
        bpf_sk_lookup_tcp, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get,
        bpf_skc_to_tcp_sock,
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use imds_guard_ebpf::{
    AF_INET, AF_INET6, AHEAD, CallerRecord, Cause, Counter, EARLY_MARK, Endpoint, EndpointKey,
    LISTENER_MARK, LOOPBACK, Mode, NAT64, ObserveEvent, Pass, Scope,
};

use crate::{
    arrival, bind,
    caller::{self, Dialled},
    globals::{offset, proxy_port},
    maps::{
        self, EARLY, ENDPOINTS, EVENTS, count, lease, listeners, may_be_endpoint, opens, records,
        upstream,
    },
    passing, share, socket,
};

pub(crate) const EACCES: i32 = 13;
const ECONNREFUSED: i32 = 111;
pub(crate) const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
/// `BPF_F_CURRENT_NETNS`: the namespace of the context's socket.
const SOCKET_NETNS: u64 = u64::MAX;
pub(crate) const MAPPED: u32 = 0xffffu32.to_be();
const LOOPBACK4: u32 = 0x7f00_0001u32.to_be();
pub(crate) const LOOPBACK6: u32 = 1u32.to_be();

/// What the program tells the kernel.
pub(crate) enum Verdict {
    /// As without us.
    Untouched,
    /// Aim at the listener.
    Steer,
    /// Fail with this errno.
    Refuse(i32),
}

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members of the widths that the verifier allows.
    let (ip, port) = unsafe { ((*sa).user_ip4, dialled_port(sa)) };
    let words = [0, 0, MAPPED, ip];
    match judge::<false>(&ctx, words, port, AF_INET) {
        Verdict::Untouched => 1,
        Verdict::Refuse(errno) => refuse(errno),
        // SAFETY: a connect4 program's context.
        Verdict::Steer => unsafe { aim4(sa) },
    }
}

/// Aims at the IPv4 listener.
///
/// # Safety
/// `sa` is the context of a connect4 program.
#[inline(always)]
pub(crate) unsafe fn aim4(sa: *mut bpf_sock_addr) -> i32 {
    // SAFETY: connect4 may write these two.
    unsafe {
        (*sa).user_ip4 = LOOPBACK4;
        (*sa).user_port = u32::from(proxy_port().to_be());
    }
    1
}

/// IPv6 sockets; `::ffff:a.b.c.d` is IPv4 and goes to the IPv4 listener, and so does what NAT64 would make of it.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of the context.
    let (words, port) = unsafe { (plain(dialled6(sa)), dialled_port(sa)) };
    let is_mapped = words[0] == 0 && words[1] == 0 && words[2] == MAPPED;
    let verdict = if is_mapped {
        judge::<false>(&ctx, words, port, AF_INET6)
    } else {
        judge::<true>(&ctx, words, port, AF_INET6)
    };
    match verdict {
        Verdict::Untouched => 1,
        Verdict::Refuse(errno) => refuse(errno),
        // SAFETY: a connect6 program's context.
        Verdict::Steer => unsafe { aim6(sa, is_mapped) },
    }
}

/// Aims at the IPv6 listener, or as a mapped address at the IPv4 one.
///
/// # Safety
/// `sa` is the context of a connect6 program.
#[inline(always)]
pub(crate) unsafe fn aim6(sa: *mut bpf_sock_addr, mapped: bool) -> i32 {
    let (third, fourth) = if mapped {
        (MAPPED, LOOPBACK4)
    } else {
        (0, LOOPBACK6)
    };
    // SAFETY: connect6 may write these; volatile as in `dialled6`.
    unsafe {
        write_volatile(addr_of_mut!((*sa).user_ip6[0]), 0);
        write_volatile(addr_of_mut!((*sa).user_ip6[1]), 0);
        write_volatile(addr_of_mut!((*sa).user_ip6[2]), third);
        write_volatile(addr_of_mut!((*sa).user_ip6[3]), fourth);
        (*sa).user_port = u32::from(proxy_port().to_be());
    }
    1
}

/// # Safety
/// `sa` is the context of a program for IPv6 sockets.
#[inline(always)]
pub(crate) unsafe fn dialled6(sa: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: as promised. Volatile, or LLVM merges neighbours into 64-bit loads, which the verifier refuses.
    unsafe {
        [
            read_volatile(addr_of!((*sa).user_ip6[0])),
            read_volatile(addr_of!((*sa).user_ip6[1])),
            read_volatile(addr_of!((*sa).user_ip6[2])),
            read_volatile(addr_of!((*sa).user_ip6[3])),
        ]
    }
}

/// The address that is meant: an alias of NAT64 is the IPv4 address that it leads to.
#[inline(always)]
pub(crate) fn plain(words: [u32; 4]) -> [u32; 4] {
    if words[0] == NAT64[0] && words[1] == NAT64[1] && words[2] == NAT64[2] {
        [0, 0, MAPPED, words[3]]
    } else {
        words
    }
}

/// # Safety
/// `sa` is the program's context.
#[inline(always)]
pub(crate) unsafe fn dialled_port(sa: *mut bpf_sock_addr) -> u32 {
    // SAFETY: as promised. The low 16 bits hold the port in network order.
    u32::from(u16::from_be(unsafe { (*sa).user_port } as u16))
}

#[inline(always)]
pub(crate) fn refuse(errno: i32) -> i32 {
    // SAFETY: connect programs may set the return value since 5.18 (and RHEL 9); the loader names the feature if not.
    unsafe { bpf_set_retval(-errno) };
    0
}

/// The walk of one connect. `V6` says which listener it would go to.
#[inline(always)]
fn judge<const V6: bool>(
    ctx: &SockAddrContext,
    words: [u32; 4],
    port: u32,
    family: u16,
) -> Verdict {
    match endpoint_at(words, port) {
        Some((key, endpoint)) => guarded::<V6>(ctx, key, family, endpoint),
        None => elsewhere(ctx, words, port),
    }
}

/// The endpoint there; other destinations cost a few instructions and no look-up.
#[inline(always)]
pub(crate) fn endpoint_at(words: [u32; 4], port: u32) -> Option<(EndpointKey, Endpoint)> {
    if !may_be_endpoint(words, port) {
        return None;
    }
    let address = bytes(words);
    let key = EndpointKey { address, port };
    // SAFETY: the value is copied at once; entries are only replaced as a whole.
    let &endpoint = unsafe { ENDPOINTS.get(&key) }?;
    Some((key, endpoint))
}

#[inline(always)]
pub(crate) fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: same size and no invalid patterns; memory order is kept.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}

/// A connect to what isn't guarded.
#[inline(always)]
fn elsewhere(ctx: &SockAddrContext, words: [u32; 4], port: u32) -> Verdict {
    // Once: of two loads of it LLVM makes one address, and arithmetic on the context is refused.
    let sk = sk(ctx);
    let to_listener = port == u32::from(proxy_port());
    // SAFETY: the context's own socket.
    if to_listener && unsafe { steered_ahead(sk) } {
        return Verdict::Untouched;
    }
    // SAFETY: the context's own socket.
    if unsafe { socket::device(sk) == LOOPBACK && was_rebound(sk) } {
        // It was confined to another device: the loopback's services are as much out of its reach as the rest.
        count(Counter::Rebound);
        return Verdict::Refuse(EACCES);
    }
    if to_listener {
        // SAFETY: the same.
        unsafe { forget(sk) };
        // Nobody has any business there, and its queue is for those who are steered. IPv4's listener stands for both.
        if (bind::is_any(words) || bind::is_loopback(words)) && listener::<false>(ctx).is_ok() {
            count(Counter::Direct);
            return Verdict::Refuse(ECONNREFUSED);
        }
    }
    Verdict::Untouched
}

/// Whether `ahead.rs` has steered the context's socket in this very connect(): all is done then. Asked once.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
unsafe fn steered_ahead(sk: *mut c_void) -> bool {
    // SAFETY: look-up only, on the context's own socket.
    let stored = unsafe { bpf_sk_storage_get(records(), sk, null_mut(), 0) };
    let stored = stored as *mut CallerRecord;
    if stored.is_null() {
        return false;
    }
    // SAFETY: non-null, the map's value; the socket is locked, so nobody else writes it.
    unsafe {
        let steered = (*stored).missing & AHEAD != 0;
        (*stored).missing &= !AHEAD;
        steered
    }
}

/// Whether we have bound the context's socket, once steered and disconnected since, to the loopback.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
unsafe fn was_rebound(sk: *mut c_void) -> bool {
    // SAFETY: look-up only, on the context's own socket.
    let stored = unsafe { bpf_sk_storage_get(records(), sk, null_mut(), 0) };
    let stored = stored as *const CallerRecord;
    // SAFETY: non-null, so it points to the stored value.
    !stored.is_null() && unsafe { (*stored).device } > LOOPBACK
}

/// Someone dials the proxy port itself. If its socket was steered before (and disconnected since), the old record must
/// not go along: it may name another process.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
pub(crate) unsafe fn forget(sk: *mut c_void) {
    // SAFETY: as promised; a missing entry is fine.
    unsafe { bpf_sk_storage_delete(records(), sk) };
}

#[inline(always)]
pub(crate) fn sk(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: a context member that is never null in connect programs.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// What becomes of a connect to a guarded (address, port).
pub(crate) enum Outcome {
    /// The proxy's own.
    Exempt,
    /// Not our business in `observe`.
    Observed,
    /// To the listener; the device that the socket was bound to.
    Steer(u32),
    /// Somebody with root's power, or a lifeline, lets it through.
    LetThrough(Counter),
    /// It can't be steered, and `audit` lets it pass.
    Passed(Counter),
    /// Its unit may pass until the guard runs.
    Early,
    /// It can't be steered.
    Refused(Counter),
}

impl Outcome {
    /// What the caller is told where it is refused.
    #[inline(always)]
    pub(crate) fn errno(why: Counter) -> i32 {
        match why {
            Counter::NotTcp | Counter::BoundToDevice => EACCES,
            _ => ECONNREFUSED,
        }
    }
}

/// A connect to a guarded (address, port).
#[inline(always)]
fn guarded<const V6: bool>(
    ctx: &SockAddrContext,
    key: EndpointKey,
    family: u16,
    endpoint: Endpoint,
) -> Verdict {
    let to = Dialled {
        key,
        family,
        endpoint_id: endpoint.id,
    };
    match outcome::<V6>(ctx, endpoint) {
        Outcome::Exempt => {
            count(Counter::UpstreamExempt);
            Verdict::Untouched
        }
        Outcome::Observed => {
            count(Counter::Observed);
            note(ctx, &to, endpoint.mode, Counter::Observed);
            Verdict::Untouched
        }
        Outcome::LetThrough(why) => {
            count(why);
            note(ctx, &to, endpoint.mode, why);
            Verdict::Untouched
        }
        Outcome::Steer(device) => steer(ctx, &to, device, 0),
        Outcome::Passed(why) => {
            count(Counter::AuditPassed);
            note(ctx, &to, endpoint.mode, why);
            Verdict::Untouched
        }
        Outcome::Early => {
            count(Counter::Early);
            Verdict::Untouched
        }
        Outcome::Refused(why) => {
            count(why);
            if why == Counter::BoundToDevice {
                note(ctx, &to, Mode::Enforce as u32, why);
            }
            Verdict::Refuse(Outcome::errno(why))
        }
    }
}

/// Looks at mode, mark, listener and socket; counts and notes nothing.
#[inline(always)]
pub(crate) fn outcome<const V6: bool>(ctx: &SockAddrContext, endpoint: Endpoint) -> Outcome {
    if carries_upstream_mark(ctx, endpoint.id) {
        return Outcome::Exempt;
    }
    let audited = endpoint.mode == Mode::Audit as u32;
    if endpoint.mode == Mode::Observe as u32 {
        return Outcome::Observed;
    }
    if let Some(why) = passes(ctx, endpoint.id) {
        return Outcome::LetThrough(why);
    }
    // SAFETY: the context's own socket.
    let device = unsafe { socket::device(sk(ctx)) };
    match obstacle::<V6>(ctx, device, audited) {
        None => Outcome::Steer(device),
        Some(why) if audited && lets_pass(why, &endpoint) => Outcome::Passed(why),
        // SAFETY: the context's own socket.
        Some(Counter::NoListener) if unsafe { passes_early(sk(ctx), endpoint.id) } => {
            Outcome::Early
        }
        Some(why) => Outcome::Refused(why),
    }
}

/// Whether who can't be steered passes in audit. A crowd is made by its caller, and dialling again works; a device is the
/// caller's own choice, and no way past a deny.
#[inline(always)]
fn lets_pass(why: Counter, endpoint: &Endpoint) -> bool {
    match why {
        Counter::Crowded => false,
        Counter::BoundToDevice => endpoint.denies == 0,
        _ => true,
    }
}

/// By what the caller passes, if it does; then its socket keeps that, so that its packets pass as long.
#[inline(always)]
fn passes(ctx: &SockAddrContext, endpoint_id: u32) -> Option<Counter> {
    if !is_tcp(ctx) {
        return None;
    }
    let mut pass = Pass {
        scope: Scope {
            cgroup: 0,
            uid: 0,
            reserved: 0,
        },
        endpoint_id,
        lifeline: 0,
    };
    let why = passing::of_caller(&mut pass)?;
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: creation on the context's own socket.
    let stored = unsafe { bpf_sk_storage_get(maps::passes(), sk(ctx), null_mut(), create) };
    let stored = stored as *mut Pass;
    if stored.is_null() {
        return None;
    }
    // SAFETY: non-null, the map's value; the socket is locked, so nobody else writes it.
    unsafe { *stored = pass };
    Some(why)
}

/// Whether the caller's unit may pass until the guard runs; then its socket is marked, so that its packets pass, too. As long:
/// such a socket may be kept, or handed on.
///
/// # Safety
/// `sk` is the context's socket.
#[inline(always)]
unsafe fn passes_early(sk: *mut c_void, endpoint_id: u32) -> bool {
    // SAFETY: the helper takes no argument.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: only whether it is there.
    if unsafe { EARLY.get(&cgroup) }.is_none() {
        return false;
    }
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as promised.
    let mark = unsafe { bpf_sk_storage_get(upstream(), sk, null_mut(), create) } as *mut u32;
    if mark.is_null() {
        return false;
    }
    // SAFETY: non-null, so it points to the stored value.
    unsafe { *mark = endpoint_id ^ EARLY_MARK };
    true
}

/// Why a connection can't be steered. `audited`: nor may it be where nobody could dial in the caller's place what the
/// caller would have reached, and no more.
#[inline(always)]
fn obstacle<const V6: bool>(ctx: &SockAddrContext, device: u32, audited: bool) -> Option<Counter> {
    if !is_tcp(ctx) {
        return Some(Counter::NotTcp);
    }
    match listener::<V6>(ctx) {
        // SAFETY: the helper takes no argument.
        Ok(_) if unsafe { bpf_ktime_get_ns() } > lease() => return Some(Counter::Away),
        Ok(waiting) if waiting > share::CROWDED && share::is_spent() => {
            return Some(Counter::Crowded);
        }
        Ok(_) => {}
        Err(why) => {
            // SAFETY: the helper takes the program's own context.
            let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
            arrival::tell(cookie, Cause::NoListener);
            return Some(why);
        }
    }
    if audited && filtered(ctx) {
        return Some(Counter::Filtered);
    }
    if device > LOOPBACK && !socket::bind_to_loopback(ctx) {
        return Some(Counter::BoundToDevice);
    }
    None
}

#[inline(always)]
fn filtered(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context's own socket.
    let sock = unsafe { bpf_skc_to_tcp_sock(sk(ctx)) };
    sock.is_null() || socket::has_foreign_filter(sock as u64)
}

#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: context members. MPTCP connects by a TCP subflow, which is what this program sees.
    unsafe { (*ctx.sock_addr).type_ == SOCK_STREAM && (*ctx.sock_addr).protocol == IPPROTO_TCP }
}

/// The mark is per endpoint: the proxy's socket for one endpoint opens no other.
#[inline(always)]
pub(crate) fn carries_upstream_mark(ctx: &SockAddrContext, endpoint_id: u32) -> bool {
    // SAFETY: look-up only (no creation) on the context's own socket.
    let mark = unsafe { bpf_sk_storage_get(upstream(), sk(ctx), null_mut(), 0) } as *const u32;
    // SAFETY: non-null, so it points to the stored value.
    !mark.is_null() && opens(unsafe { *mark }, endpoint_id)
}

/// Whether the guard's own listener is in the socket's network namespace; if not, why.
#[inline(always)]
fn listener<const V6: bool>(ctx: &SockAddrContext) -> Result<u32, Counter> {
    // SAFETY: an all-zero tuple is valid. Source port 0 belongs to no connection, so only a listener can match.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let port = proxy_port().to_be();
    let size = if V6 {
        let ipv6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        ipv6.saddr[3] = LOOPBACK6;
        ipv6.daddr[3] = LOOPBACK6;
        ipv6.dport = port;
        size_of_val(ipv6)
    } else {
        let ipv4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        ipv4.saddr = LOOPBACK4;
        ipv4.daddr = LOOPBACK4;
        ipv4.dport = port;
        size_of_val(ipv4)
    };
    // SAFETY: tuple and size fit; the reference is given back below.
    unsafe {
        let sk = bpf_sk_lookup_tcp(ctx.as_ptr(), &mut tuple, size as u32, SOCKET_NETNS, 0);
        if sk.is_null() {
            return Err(Counter::NoListener);
        }
        let mark = bpf_sk_storage_get(listeners(), sk.cast(), null_mut(), 0) as *const u32;
        let ours = !mark.is_null() && *mark == LISTENER_MARK;
        let waiting = waiting(sk.cast());
        bpf_sk_release(sk.cast());
        if ours {
            Ok(waiting)
        } else {
            Err(Counter::ForeignListener)
        }
    }
}

/// How many connections wait at a listener to be accepted.
///
/// # Safety
/// `sk` is a socket that the program holds.
#[inline(always)]
unsafe fn waiting(sk: *mut c_void) -> u32 {
    // SAFETY: as promised.
    let listener = unsafe { bpf_skc_to_tcp_sock(sk) };
    if listener.is_null() {
        return 0;
    }
    caller::read(listener as u64, offset!(sock_backlog)).unwrap_or(0)
}

/// Writes who is calling into the socket's storage. Without storage nobody could tell later who it was: refused. `device` is
/// the one that the socket was bound to before we looked at it, `ahead` is [`AHEAD`] where [`connect4`] or [`connect6`] are yet to run.
#[inline(always)]
pub(crate) fn steer(ctx: &SockAddrContext, to: &Dialled, device: u32, ahead: u32) -> Verdict {
    // SAFETY: creation on the context's own socket; a new value is zeroed by the kernel.
    let stored = unsafe {
        bpf_sk_storage_get(
            records(),
            sk(ctx),
            null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    } as *mut CallerRecord;
    if stored.is_null() {
        count(Counter::NoStorage);
        return Verdict::Refuse(ECONNREFUSED);
    }
    // SAFETY: non-null, the map's value; the socket is locked, so nobody else writes it.
    unsafe {
        // Steered a second time, it is on the loopback because of us.
        let device = match (*stored).device {
            before if device == LOOPBACK && before > LOOPBACK => before,
            _ => device,
        };
        caller::record(&mut *stored, ctx.as_ptr(), sk(ctx), to);
        (*stored).device = device;
        (*stored).missing = ((*stored).missing & !AHEAD) | ahead;
    }
    count(Counter::Steered);
    Verdict::Steer
}

/// Notes a connection that was not steered.
#[inline(always)]
pub(crate) fn note(ctx: &SockAddrContext, to: &Dialled, mode: u32, why: Counter) {
    let Some(mut slot) = EVENTS.reserve::<ObserveEvent>(0) else {
        count(Counter::EventLost);
        return;
    };
    let event = slot.as_mut_ptr();
    // SAFETY: the reserved slot; each member is written before it is submitted.
    unsafe {
        caller::record(&mut (*event).record, ctx.as_ptr(), sk(ctx), to);
        (*event).protocol = (*ctx.sock_addr).protocol;
        (*event).mode = mode;
        (*event).why = why as u32;
        (*event).reserved = 0;
    }
    slot.submit(0);
}

const _: () = assert!(size_of::<[u32; 4]>() == size_of::<[u8; 16]>());
