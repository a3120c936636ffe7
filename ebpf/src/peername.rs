//! `getpeername()`: a steered caller sees the address that it dialled, for SDKs compare.
//!
//! Cosmetic, and so never an error; but it must not lie: only the socket that was steered (its own cookie in the
//! record, for an accepted socket carries its caller's), and only while its peer really is the listener.

use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_socket_cookie, bpf_sk_storage_get},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use imds_guard_ebpf::{CallerRecord, EndpointKey};

use crate::{globals::proxy_port, maps::records};

/// IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&ctx) {
        let sa = ctx.sock_addr;
        // SAFETY: this program may write these two.
        unsafe {
            (*sa).user_ip4 = dialled.words()[3];
            (*sa).user_port = u32::from((dialled.port as u16).to_be());
        }
    }
    1
}

/// IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(dialled) = dialled(&ctx) {
        let sa = ctx.sock_addr;
        let words = dialled.words();
        // SAFETY: this program may write these; volatile so that neighbours aren't merged.
        unsafe {
            write_volatile(addr_of_mut!((*sa).user_ip6[0]), words[0]);
            write_volatile(addr_of_mut!((*sa).user_ip6[1]), words[1]);
            write_volatile(addr_of_mut!((*sa).user_ip6[2]), words[2]);
            write_volatile(addr_of_mut!((*sa).user_ip6[3]), words[3]);
            (*sa).user_port = u32::from((dialled.port as u16).to_be());
        }
    }
    1
}

#[inline(always)]
fn dialled(ctx: &SockAddrContext) -> Option<EndpointKey> {
    // SAFETY: context members; a look-up without creation.
    unsafe {
        let port = read_volatile(addr_of!((*ctx.sock_addr).user_port)) as u16;
        if port != proxy_port().to_be() {
            return None;
        }
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk.cast();
        let record = bpf_sk_storage_get(records(), sk, null_mut(), 0) as *const CallerRecord;
        if record.is_null() || (*record).socket_cookie != bpf_get_socket_cookie(ctx.as_ptr()) {
            return None;
        }
        Some(EndpointKey {
            address: (*record).address,
            port: u32::from((*record).port),
        })
    }
}
