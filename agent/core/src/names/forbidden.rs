//! Which addresses a name never leads to. A resolver that lies, or whose answers somebody forges, must not turn a request of
//! ours into one to a metadata service, by whichever of an address's spellings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Azure's wire server, which is no link-local address.
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether nobody is to dial `address` who was led there by a name. `guarded`: the endpoints that the policy in force knows,
/// whatever their mode and port.
pub fn is_forbidden(address: IpAddr, guarded: &[SocketAddr]) -> bool {
    let is_guarded = |address: IpAddr| {
        guarded
            .iter()
            .any(|at| at.ip().to_canonical() == address.to_canonical())
    };
    match address.to_canonical() {
        IpAddr::V4(v4) => forbidden_v4(v4) || is_guarded(v4.into()),
        IpAddr::V6(v6) => {
            let inner = embedded(v6);
            let leads_on = |v4: &Ipv4Addr| forbidden_v4(*v4) || is_guarded((*v4).into());
            forbidden_v6(v6) || is_guarded(v6.into()) || inner.iter().flatten().any(leads_on)
        }
    }
}

fn forbidden_v4(v4: Ipv4Addr) -> bool {
    v4.is_link_local()
        || v4.is_unspecified()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4 == WIRESERVER
}

fn forbidden_v6(v6: Ipv6Addr) -> bool {
    v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
}

/// The IPv4 addresses that a translator or a tunnel on the way could make of `v6`: NAT64 by its well-known prefix and by the one
/// for local use in each of its layouts (RFC 6052, RFC 8215), 6to4, and the IPv4-compatible form.
fn embedded(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let o = v6.octets();
    let at = |first: usize| Ipv4Addr::new(o[first], o[first + 1], o[first + 2], o[first + 3]);
    let last = Some(at(12));
    match o {
        [0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, ..] => [last, None, None, None],
        // 64:ff9b:1::/48: which of the layouts is used there, its owner knows. Byte 8 is none of the address's.
        [0x00, 0x64, 0xff, 0x9b, 0x00, 0x01, ..] => [
            last,
            Some(Ipv4Addr::new(o[6], o[7], o[9], o[10])),
            Some(Ipv4Addr::new(o[7], o[9], o[10], o[11])),
            Some(at(9)),
        ],
        [0x20, 0x02, ..] => [Some(at(2)), None, None, None],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..] if !v6.is_loopback() => [last, None, None, None],
        _ => [None; 4],
    }
}
