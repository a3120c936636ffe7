//! Frames that leave by an uplink, whoever made them: packet sockets, and what the host only forwards. Not those that
//! bypass the queueing discipline, which netfilter's rules beside it see (`agent/src/intercept/uplinks/`).

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use imds_guard_ebpf::Counter;

use crate::{
    maps::count,
    packet::{IPV4, IPV6, Packet, judge4, judge6, load},
};

/// `TCX_NEXT`: whatever the next program says.
const NEXT: i32 = -1;
/// `TCX_DROP`
const DROP: i32 = 2;
/// Bytes before the ethertype of a frame.
const ADDRESSES: u32 = 12;
/// The ethertypes of VLAN tags (802.1Q, 802.1ad).
const TAG: u16 = 0x8100u16.to_be();
const OUTER_TAG: u16 = 0x88a8u16.to_be();

/// Attached to Ethernet interfaces alone.
#[classifier]
pub(crate) fn uplink(ctx: TcContext) -> i32 {
    match judge(ctx.skb.skb) {
        Packet::Refused => {
            count(Counter::FrameDropped);
            DROP
        }
        Packet::Other | Packet::Upstream | Packet::Passed => NEXT,
    }
}

#[inline(always)]
fn judge(skb: *mut __sk_buff) -> Packet {
    let mut at = ADDRESSES;
    // A tag that the sender wrote; one that the interface adds is not in the data.
    for _ in 0..3 {
        match load::<u16>(skb, at) {
            Some(IPV4) => return judge4(skb, at + 2),
            Some(IPV6) => return judge6(skb, at + 2),
            Some(TAG | OUTER_TAG) => at += 4,
            _ => return Packet::Other,
        }
    }
    // Three tags: nobody's network.
    Packet::Refused
}
