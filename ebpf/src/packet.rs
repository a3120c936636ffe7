//! A packet on its way out, judged by what stands in it: for whoever didn't come through `connect()` or `sendto()`, and
//! for connections older than the guard. The two programs that ask are [`crate::egress`] and [`crate::uplink`].
//!
//! Must never: read an option or a header that it doesn't understand as harmless. To an enforced address, what can't be
//! judged is refused.

use core::{mem::MaybeUninit, ptr::null_mut};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_load_bytes},
};
use imds_guard_ebpf::{Mode, OtherTraffic, Pass};

use crate::{
    connect::{MAPPED, bytes, endpoint_at, plain},
    maps::{ADDRESSES, may_be_address, opens, passes, upstream},
    passing,
};

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    /// None of our business.
    Other,
    /// To an enforced endpoint, from the proxy's own socket, or one that is let through with the agent's knowledge.
    Upstream,
    /// To an enforced endpoint, and let go on, whosever it is: never to be given what only the proxy's own packets carry.
    Passed,
    /// To an enforced endpoint or address, and not allowed there.
    Refused,
}

/// Ethertypes, as the kernel's context has them.
pub(crate) const IPV4: u16 = 0x0800u16.to_be();
pub(crate) const IPV6: u16 = 0x86ddu16.to_be();

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const UDPLITE: u8 = 136;

/// What is behind the IP header, and where.
struct Inner {
    protocol: u8,
    /// From the beginning of the packet's data.
    at: u32,
    /// Bytes from there to the end of the IP packet.
    length: u32,
}

/// Judges the IPv4 packet at `at`.
#[inline(always)]
pub(crate) fn judge4(skb: *mut __sk_buff, at: u32) -> Packet {
    let Some(ip) = load::<u32>(skb, at + 16) else {
        return Packet::Other;
    };
    let words = [0, 0, MAPPED, ip];
    if !may_be_address(words) {
        return Packet::Other;
    }
    judge(skb, words, || {
        let [
            version_length,
            _,
            high,
            low,
            _,
            _,
            flags,
            offset,
            _,
            protocol,
        ] = load::<[u8; 10]>(skb, at)?;
        let header = u32::from(version_length & 15) * 4;
        let total = u32::from(u16::from_be_bytes([high, low]));
        // More fragments, or not the first: its port may be in another packet.
        if flags & 0x3f != 0 || offset != 0 || header < 20 || total < header {
            return None;
        }
        Some(Inner {
            protocol,
            at: at + header,
            length: total - header,
        })
    })
}

/// Judges the IPv6 packet at `at`.
#[inline(always)]
pub(crate) fn judge6(skb: *mut __sk_buff, at: u32) -> Packet {
    let Some(address) = load::<[u32; 4]>(skb, at + 24) else {
        return Packet::Other;
    };
    let words = plain(address);
    if !may_be_address(words) {
        return Packet::Other;
    }
    judge(skb, words, || {
        let [high, low, protocol] = load::<[u8; 3]>(skb, at + 4)?;
        Some(Inner {
            protocol,
            at: at + 40,
            length: u32::from(u16::from_be_bytes([high, low])),
        })
    })
}

#[inline(always)]
fn judge(skb: *mut __sk_buff, words: [u32; 4], inner: impl FnOnce() -> Option<Inner>) -> Packet {
    // SAFETY: the value is copied at once.
    let Some(&others) = (unsafe { ADDRESSES.get(bytes(words)) }) else {
        return Packet::Other;
    };
    let Some(inner) = inner() else {
        return Packet::Refused;
    };
    match inner.protocol {
        TCP | UDP | UDPLITE => ports(skb, words, &inner, others),
        ICMP | ICMPV6 if is_error(skb, &inner) => Packet::Other,
        // IPv6 extension headers, which may hide a port: hop-by-hop, routing, fragment, authentication, destination
        // options, mobility, HIP, shim6. As IPv4 protocols these numbers are as rare.
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Packet::Refused,
        _ if others == OtherTraffic::Pass as u32 => Packet::Other,
        _ => Packet::Refused,
    }
}

/// A protocol with ports: the endpoint's own, or another.
#[inline(always)]
fn ports(skb: *mut __sk_buff, words: [u32; 4], inner: &Inner, others: u32) -> Packet {
    let Some(port) = load::<u16>(skb, inner.at + 2) else {
        return Packet::Refused;
    };
    let port = u32::from(u16::from_be(port));
    let Some((_, endpoint)) = endpoint_at(words, port) else {
        // DNS, DHCP and NTP live at the same address.
        let allowed = others != OtherTraffic::Refuse as u32 || matches!(port, 53 | 67 | 123);
        return if allowed {
            Packet::Other
        } else {
            Packet::Refused
        };
    };
    if endpoint.mode == Mode::Observe as u32 || endpoint.mode == Mode::Audit as u32 {
        return Packet::Other;
    }
    match sender(skb, endpoint.id) {
        Some(packet) => packet,
        None if inner.protocol == TCP && is_bare(skb, inner) => Packet::Passed,
        None => Packet::Refused,
    }
}

/// Errors (unreachable, too big, time exceeded, parameter problem) tell a DNS server that its answer came too late; over
/// IPv6 an address isn't even reached without neighbour discovery.
#[inline(always)]
fn is_error(skb: *mut __sk_buff, inner: &Inner) -> bool {
    match load::<u8>(skb, inner.at) {
        Some(3 | 4 | 11 | 12) if inner.protocol == ICMP => true,
        Some(1..=4 | 130..=137 | 143) if inner.protocol == ICMPV6 => true,
        _ => false,
    }
}

/// An acknowledgement or a reset, with nothing in it. The kernel sends these by a socket of its own for connections that it
/// has nearly forgotten (TIME_WAIT): without them the real service would wait for the end of each. They open nothing.
#[inline(always)]
fn is_bare(skb: *mut __sk_buff, inner: &Inner) -> bool {
    const FIN_SYN_PSH_URG: u8 = 1 | 2 | 8 | 32;
    match load::<[u8; 2]>(skb, inner.at + 12) {
        Some([offset, flags]) => {
            flags & FIN_SYN_PSH_URG == 0 && u32::from(offset >> 4) * 4 == inner.length
        }
        None => false,
    }
}

/// What the socket that sends it may: the proxy's own to that endpoint, or one that was let through to it and still is.
#[inline(always)]
fn sender(skb: *mut __sk_buff, endpoint_id: u32) -> Option<Packet> {
    // SAFETY: the context's socket, checked at each step; look-ups without creation.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return None;
        }
        let mark = bpf_sk_storage_get(upstream(), sk.cast(), null_mut(), 0) as *const u32;
        if !mark.is_null() && *mark == endpoint_id {
            return Some(Packet::Upstream);
        }
        if !mark.is_null() && opens(*mark, endpoint_id) {
            return Some(Packet::Passed);
        }
        let pass = bpf_sk_storage_get(passes(), sk.cast(), null_mut(), 0) as *const Pass;
        // By the uplink, too, which only what the proxy's packets carry opens.
        (!pass.is_null() && passing::holds(pass, endpoint_id)).then_some(Packet::Upstream)
    }
}

/// `T` at `at` of the packet, in whatever part of it that lies; none beyond its end.
#[inline(always)]
pub(crate) fn load<T: Copy>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the whole value, or nothing and fails. T is plain bytes or integers.
    unsafe {
        let failed = bpf_skb_load_bytes(
            skb.cast(),
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        (failed == 0).then(|| value.assume_init())
    }
}
