//! Frames: a port's are what its guest may send; those for a guarded address are marked with the port that they came in at,
//! and go to the host; no frame for or from such an address passes from port to port.

use imds_guard_core::policy::settings::Network;

use super::{FAMILIES, Family, Served, addresses, begin, end, guarded, listed, own, sets, sources};
use crate::intercept::GuardedEndpoint;
use crate::intercept::guests::mapping::{Bridge, Mapping};

/// Neighbour solicitations and advertisements.
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";

pub(super) fn body(endpoints: &[GuardedEndpoint], guests: &[Served<'_>]) -> String {
    let mut out = sets(endpoints);
    // Before the bridge learns from a frame which port its sender is at.
    begin(&mut out, "from_ports", "filter", "prerouting", -350);
    for guest in guests {
        let Some(bridge) = &guest.mapping.bridge else {
            continue;
        };
        let others = (!bridge.others.is_empty()).then(|| listed(&bridge.others));
        let others = others.map(|others| format!("iif {others}"));
        station(&mut out, guest.mapping, others.as_deref());
        arp(&mut out, guest.mapping, others.as_deref());
        neighbours(&mut out, guest.mapping, others.as_deref(), endpoints);
        for family in FAMILIES {
            sources(&mut out, guest.mapping, family);
            lifted(&mut out, guest, bridge, family);
        }
    }
    end(&mut out);
    across(&mut out, endpoints);
    out
}

/// The link-layer address of a port's guest, and that nobody else has it.
fn station(out: &mut String, guest: &Mapping, others: Option<&str>) {
    let index = guest.index;
    let Some(mac) = guest.mac else { return };
    line!(out, "iif {index} ether saddr != {mac} counter drop");
    line!(out, "iif {index} arp saddr ether != {mac} counter drop");
    if let Some(others) = others {
        line!(out, "{others} ether saddr {mac} counter drop");
    }
}

/// Whose an address is, says the guest of its own, and nobody else: not of a guest's, nor of a guarded one.
fn arp(out: &mut String, guest: &Mapping, others: Option<&str>) {
    let (index, [v4, _]) = (guest.index, FAMILIES);
    line!(out, "iif {index} arp saddr ip @addresses4 counter drop");
    let Some(own) = own(guest, v4) else { return };
    // 0.0.0.0: whoever looks whether an address is free.
    line!(
        out,
        "iif {index} arp saddr ip != 0.0.0.0 arp saddr ip != {own} counter drop"
    );
    if let Some(others) = others {
        line!(out, "{others} arp saddr ip {own} counter drop");
    }
}

/// The same of IPv6.
fn neighbours(
    out: &mut String,
    guest: &Mapping,
    others: Option<&str>,
    endpoints: &[GuardedEndpoint],
) {
    let (index, [_, v6]) = (guest.index, FAMILIES);
    let advert = "icmpv6 type nd-neighbor-advert";
    for target in targets(endpoints) {
        line!(out, "iif {index} {advert} {target} counter drop");
    }
    if let Some(others) = others {
        for target in addresses(guest, v6).map(target) {
            line!(out, "{others} {advert} {target} counter drop");
        }
    }
}

/// Frames for a guarded address are marked with their port, and go to the host's IP whatever station they are for: a guest's
/// gateway may be another than the host.
fn lifted(out: &mut String, guest: &Served<'_>, bridge: &Bridge, family: Family) {
    let (index, mark, mac) = (guest.mapping.index, guest.mark(), bridge.mac);
    let Family {
        ip, n, fragment, ..
    } = family;
    line!(
        out,
        "iif {index} {ip} daddr @addresses{n} {fragment} counter drop"
    );
    line!(
        out,
        "iif {index} {ip} daddr @addresses{n} meta mark set {mark}"
    );
    let guarded = format!("{ip} daddr . tcp dport @guarded{n}");
    line!(
        out,
        "iif {index} {guarded} counter meta pkttype set host ether daddr set {mac}"
    );
}

/// Nothing for, from or about a guarded address goes from port to port.
fn across(out: &mut String, endpoints: &[GuardedEndpoint]) {
    begin(out, "across", "filter", "forward", -350);
    for target in targets(endpoints) {
        line!(out, "{NEIGHBOURS} {target} counter drop");
    }
    line!(out, "arp daddr ip @addresses4 counter drop");
    line!(out, "arp saddr ip @addresses4 counter drop");
    for family in FAMILIES {
        let Family {
            ip, n, fragment, ..
        } = family;
        line!(out, "{ip} saddr . th sport @guarded{n} counter drop");
        line!(out, "{ip} daddr @addresses{n} {fragment} counter drop");
        guarded(out, "", family);
    }
    end(out);
}

/// Matches for the guarded addresses of IPv6 that a neighbour speaks of.
fn targets(endpoints: &[GuardedEndpoint]) -> Vec<String> {
    let v6 = endpoints
        .iter()
        .filter(|endpoint| endpoint.address.is_ipv6());
    let mut targets: Vec<_> = v6.map(|endpoint| target(endpoint.address.into())).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// A match for the address that a solicitation or advertisement speaks of: its leading bits. (Debian 12's nft has no name for
/// that field.)
fn target(network: Network) -> String {
    let (leading, bits) = network.leading();
    format!("@th,64,{bits} {leading:#x}")
}
