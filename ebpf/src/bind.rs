//! `bind()`: nobody but the guard takes the port that callers are steered to, nor the issuer's, also while the guard is
//! away. What it lets through is a mark in the socket's storage that only the guard can set, before it binds.
//!
//! A port taken without `bind()` (by `listen()` alone, from the ephemeral range) has no mark either: `connect.rs` steers
//! nobody to it.

use core::ptr::null_mut;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_netns_cookie, bpf_sk_storage_get},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use imds_guard_ebpf::{Counter, ISSUER_MARK, LISTENER_MARK};

use crate::{
    connect::{EACCES, LOOPBACK6, MAPPED, SOCK_STREAM, bytes, dialled_port, dialled6, refuse, sk},
    globals::{issuer, proxy_port},
    maps::{count, listeners, steers},
};

/// IPv4 sockets.
#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members.
    let (ip, port) = unsafe { ((*sa).user_ip4, dialled_port(sa)) };
    judge(&ctx, [0, 0, MAPPED, ip], port)
}

/// IPv6 sockets; one on `::` or on a mapped address takes IPv4's port, too.
#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members.
    let (words, port) = unsafe { (dialled6(sa), dialled_port(sa)) };
    judge(&ctx, words, port)
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, words: [u32; 4], port: u32) -> i32 {
    // SAFETY: a context member. Only streams are connected to; a UDP port of that number is nobody's business.
    if unsafe { (*ctx.sock_addr).type_ } != SOCK_STREAM {
        return 1;
    }
    let needed = match needed(ctx, words, port) {
        0 => return 1,
        mark => mark,
    };
    // SAFETY: look-up only (no creation) on the context's own socket.
    let mark = unsafe { bpf_sk_storage_get(listeners(), sk(ctx), null_mut(), 0) } as *const u32;
    // SAFETY: non-null, so it points to the stored value.
    if !mark.is_null() && unsafe { *mark } == needed {
        return 1;
    }
    count(Counter::BindRefused);
    refuse(EACCES)
}

/// The mark that this bind takes; 0: none.
#[inline(always)]
fn needed(ctx: &SockAddrContext, words: [u32; 4], port: u32) -> u32 {
    let any = is_any(words);
    // In every network namespace: callers of each are steered to its own loopback.
    if port == u32::from(proxy_port()) && (any || is_loopback(words)) && steers() {
        return LISTENER_MARK;
    }
    let issuer = issuer();
    if issuer.at.port == 0 || port != issuer.at.port {
        return 0;
    }
    // SAFETY: the context's own socket.
    let here = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } == issuer.netns_cookie;
    if here && (any || bytes(words) == issuer.at.address) {
        ISSUER_MARK
    } else {
        0
    }
}

#[inline(always)]
pub(crate) fn is_any(words: [u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[3] == 0 && (words[2] == 0 || words[2] == MAPPED)
}

#[inline(always)]
pub(crate) fn is_loopback(words: [u32; 4]) -> bool {
    if words[0] != 0 || words[1] != 0 {
        return false;
    }
    let v4 = words[2] == MAPPED && u32::from_be(words[3]) >> 24 == 127;
    v4 || (words[2] == 0 && words[3] == LOOPBACK6)
}
