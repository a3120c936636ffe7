//! Packets: what comes in for a guarded endpoint is redirected to its guest's own port, where that is a guest's, and dropped
//! where not. A guest's port takes nothing else.

use crate::intercept::GuardedEndpoint;

use super::{FAMILIES, Family, Served, begin, end, guarded, listed, sets, sources};

pub(super) fn body(endpoints: &[GuardedEndpoint], guests: &[Served<'_>]) -> String {
    let mut out = sets(endpoints);
    // Before packets are put together from fragments (-400).
    begin(&mut out, "early", "filter", "prerouting", -450);
    for family in FAMILIES {
        let Family {
            ip, n, fragment, ..
        } = family;
        line!(
            out,
            "iif != lo {ip} daddr @addresses{n} {fragment} counter drop"
        );
        for guest in guests.iter().filter(|guest| guest.mapping.bridge.is_none()) {
            sources(&mut out, guest.mapping, family);
        }
    }
    end(&mut out);
    redirected(&mut out, guests);
    // Whatever has not been redirected (-100): no guest's, not TCP, or of a connection that is older than the rules.
    begin(&mut out, "unmapped", "filter", "prerouting", -95);
    for family in FAMILIES {
        guarded(&mut out, "iif != lo", family);
    }
    end(&mut out);
    ports(&mut out, guests);
    out
}

fn redirected(out: &mut String, guests: &[Served<'_>]) {
    // Among the chains that translate addresses, the first.
    begin(out, "redirected", "nat", "prerouting", -110);
    for guest in guests {
        let (ingress, port) = (guest.ingress(), guest.port);
        for Family { ip, n, .. } in FAMILIES {
            line!(
                out,
                "{ingress} {ip} daddr . tcp dport @guarded{n} counter redirect to :{port}"
            );
        }
    }
    end(out);
}

/// What a guest's port takes: that guest's packets, redirected from a guarded endpoint, for a socket that took privilege to
/// make (`IP_TRANSPARENT`), so that nobody takes the port while the guard is away.
fn ports(out: &mut String, guests: &[Served<'_>]) {
    begin(out, "ports", "filter", "input", -5);
    for guest in guests {
        let (ingress, port) = (guest.ingress(), guest.port);
        for Family { ip, n, .. } in FAMILIES {
            let was = format!(
                "ct status dnat ct original {ip} daddr . ct original proto-dst @guarded{n}"
            );
            line!(
                out,
                "{ingress} tcp dport {port} {was} socket transparent 1 counter accept"
            );
        }
    }
    if !guests.is_empty() {
        nothing_else(out, guests);
    }
    end(out);
}

fn nothing_else(out: &mut String, guests: &[Served<'_>]) {
    let ports = listed(guests.iter().map(|guest| guest.port));
    let ingresses = listed(guests.iter().map(|guest| guest.mapping.ingress()));
    let reject = format!("tcp dport {ports} ct direction original counter reject with tcp reset");
    line!(out, "iif {ingresses} {reject}");
    // The host's own processes reach a socket at an interface by that interface's address. (On 127.0.0.1 there is none of
    // ours, and while the guard is away somebody else's may be.)
    for addresses in ["ip daddr != 127.0.0.0/8", "ip6 daddr != ::1"] {
        line!(out, "iif lo {addresses} {reject}");
    }
}
