//! Packets that leave a socket, of whatever kind: raw ones, ping, fragments made by hand, and connections that were there
//! before the guard. The socket is at hand here, and with it the mark of the proxy.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use imds_guard_ebpf::Counter;

use crate::{
    globals::passage,
    maps::count,
    packet::{IPV4, IPV6, Packet, judge4, judge6},
};

/// 1 lets the packet go on, 0 drops it (`EPERM`, where somebody waits for the outcome).
#[cgroup_skb]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: a context member. Here the packet begins with its IP header.
    let packet = match unsafe { (*skb).protocol } as u16 {
        IPV4 => judge4(skb, 0),
        IPV6 => judge6(skb, 0),
        _ => Packet::Other,
    };
    match packet {
        Packet::Other | Packet::Passed => 1,
        Packet::Upstream => {
            let passage = passage();
            if passage.mark != 0 {
                // SAFETY: this program may write these two. See `Passage`.
                unsafe {
                    (*skb).mark = passage.mark;
                    (*skb).priority = passage.priority;
                }
            }
            1
        }
        Packet::Refused => {
            count(Counter::PacketDropped);
            0
        }
    }
}
