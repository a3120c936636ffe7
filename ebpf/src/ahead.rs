//! `connect()` before anybody else's program at the same cgroup has seen it: another that would send a metadata address to a proxy
//! of its own finds it steered already. [`connect`](crate::connect) runs last all the same, and judges what has become of it: this
//! one alone would not see what others turn into a metadata address.
//!
//! Only steers and refuses; what passes, and every count and note, is left to the last.
//!
//! The two programs repeat what [`connect`](crate::connect)'s begin with. As one function with the judge for a parameter, LLVM makes
//! arithmetic on the context of it, which the verifier refuses; only where the guard runs in a pid namespace (`tests/systemd`), for
//! elsewhere that code is dead.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use imds_guard_ebpf::{AF_INET, AF_INET6, AHEAD};

use crate::{
    caller::Dialled,
    connect::{
        MAPPED, Outcome, Verdict, aim4, aim6, dialled_port, dialled6, endpoint_at, forget, outcome,
        plain, refuse, sk, steer,
    },
    globals::proxy_port,
};

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub(crate) fn ahead4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: reads of context members of the widths that the verifier allows.
    let (ip, port) = unsafe { ((*sa).user_ip4, dialled_port(sa)) };
    match judge::<false>(&ctx, [0, 0, MAPPED, ip], port, AF_INET) {
        Verdict::Untouched => 1,
        Verdict::Refuse(errno) => refuse(errno),
        // SAFETY: a connect4 program's context.
        Verdict::Steer => unsafe { aim4(sa) },
    }
}

/// IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub(crate) fn ahead6(ctx: SockAddrContext) -> i32 {
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

#[inline(always)]
fn judge<const V6: bool>(
    ctx: &SockAddrContext,
    words: [u32; 4],
    port: u32,
    family: u16,
) -> Verdict {
    let Some((key, endpoint)) = endpoint_at(words, port) else {
        if port == u32::from(proxy_port()) {
            // SAFETY: the context's own socket. A word of an earlier connect() must not stand for this one.
            unsafe { forget(sk(ctx)) };
        }
        return Verdict::Untouched;
    };
    let to = Dialled {
        key,
        family,
        endpoint_id: endpoint.id,
    };
    match outcome::<V6>(ctx, endpoint) {
        Outcome::Steer(device) => steer(ctx, &to, device, AHEAD),
        Outcome::Refused(why) => Verdict::Refuse(Outcome::errno(why)),
        Outcome::Exempt
        | Outcome::Observed
        | Outcome::LetThrough(_)
        | Outcome::Passed(_)
        | Outcome::Early => Verdict::Untouched,
    }
}
