//! `sendto()` without `connect()`: no metadata service speaks UDP, so a datagram to a guarded (address, port) is refused in
//! enforce, as a connected one is. Other ports of the address (DNS, NTP) aren't in the table.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use imds_guard_ebpf::{AF_INET, AF_INET6, Counter, Mode};

use crate::{
    caller::Dialled,
    connect::{
        EACCES, MAPPED, carries_upstream_mark, dialled_port, dialled6, endpoint_at, note, plain,
        refuse,
    },
    maps::count,
};

/// To an IPv4 address: from IPv4 sockets, and from IPv6 ones by a mapped address. The caller's `sa_family` may be
/// `AF_UNSPEC` here, so it is not asked.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members.
    let (ip, port) = unsafe { ((*sa).user_ip4, dialled_port(sa)) };
    judge(&ctx, [0, 0, MAPPED, ip], port, AF_INET)
}

/// To an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members.
    let (words, port) = unsafe { (plain(dialled6(sa)), dialled_port(sa)) };
    judge(&ctx, words, port, AF_INET6)
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, words: [u32; 4], port: u32, family: u16) -> i32 {
    let Some((key, endpoint)) = endpoint_at(words, port) else {
        return 1;
    };
    if carries_upstream_mark(ctx, endpoint.id) {
        return 1;
    }
    if endpoint.mode == Mode::Observe as u32 || endpoint.mode == Mode::Audit as u32 {
        let to = Dialled {
            key,
            family,
            endpoint_id: endpoint.id,
        };
        let (counter, why) = if endpoint.mode == Mode::Observe as u32 {
            (Counter::Observed, Counter::Observed)
        } else {
            (Counter::AuditPassed, Counter::NotTcp)
        };
        count(counter);
        note(ctx, &to, endpoint.mode, why);
        return 1;
    }
    count(Counter::DatagramRefused);
    refuse(EACCES)
}
