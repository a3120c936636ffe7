//! `connect()` before anybody else's program at the same cgroup has seen it: another that would send a metadata address to a proxy
//! of its own finds it steered already. [`connect`](crate::connect) runs last all the same, and judges what has become of it: this
//! one alone would not see what others turn into a metadata address.
//!
//! Only steers and refuses; what passes, and every count and note, is left to the last.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use imds_guard_ebpf::AHEAD;

use crate::{
    caller::Dialled,
    connect::{
        Outcome, Verdict, dialled_by_ipv4, dialled_by_ipv6, endpoint_at, forget, outcome, sk, steer,
    },
    globals::proxy_port,
};

/// IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub(crate) fn ahead4(ctx: SockAddrContext) -> i32 {
    dialled_by_ipv4(&ctx, judge::<false>)
}

/// IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub(crate) fn ahead6(ctx: SockAddrContext) -> i32 {
    dialled_by_ipv6(&ctx, judge::<false>, judge::<true>)
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
