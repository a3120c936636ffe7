//! The packet filter's rules for guests and for all else that only passes through: text for nft(8), from what is guarded and
//! who is there. Pure; interfaces go by number, so that a name which is used again is nobody's until it was looked at.
//!
//! Two tables, `inet` for packets and `bridge` for frames; what each does stands in its module.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imds_guard_core::policy::settings::Network;

use super::mapping::Mapping;
use crate::intercept::{GuardedEndpoint, OtherTraffic, nft};

/// Adds a line to a script.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{
        $out.push_str(&format!($($text)*));
        $out.push('\n');
    }};
}

mod bridge;
mod inet;

/// A guest and the port of its listeners.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) port: u16,
}

/// Upper half of the mark on frames from a bridge's port, beside the number of the guest's port: `IM`.
const MARK: u32 = 0x494d << 16;

impl Served<'_> {
    /// What its packets are known by where they reach the host's IP.
    fn ingress(&self) -> String {
        let index = self.mapping.ingress();
        match self.mapping.bridge {
            None => format!("iif {index}"),
            Some(_) => format!("iif {index} meta mark {}", self.mark()),
        }
    }

    fn mark(&self) -> u32 {
        MARK | u32::from(self.port)
    }
}

/// One transaction that puts the rules in the place of whatever there is of ours. `endpoints`: what is enforced.
pub(super) fn script(endpoints: &[GuardedEndpoint], guests: &[Served<'_>]) -> String {
    let inet = nft::replacing("inet", &inet::body(endpoints, guests));
    inet + &nft::replacing("bridge", &bridge::body(endpoints, guests))
}

/// The same for a kernel that doesn't filter on bridges.
pub(super) fn without_bridges(endpoints: &[GuardedEndpoint], guests: &[Served<'_>]) -> String {
    nft::replacing("inet", &inet::body(endpoints, guests))
}

/// The transaction that removes them.
pub(super) fn removal() -> String {
    nft::removing("inet") + &nft::removing("bridge")
}

/// A family of addresses, with its words.
#[derive(Debug, Clone, Copy)]
struct Family {
    ip: &'static str,
    v6: bool,
    kind: &'static str,
    /// Of the names of its sets.
    n: char,
    fragment: &'static str,
    /// What has to pass, or routing breaks.
    errors: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        ip: "ip",
        v6: false,
        kind: "ipv4_addr",
        n: '4',
        fragment: "ip frag-off & 0x3fff != 0",
        errors: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    },
    Family {
        ip: "ip6",
        v6: true,
        kind: "ipv6_addr",
        n: '6',
        fragment: "exthdr frag exists",
        errors: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-neighbor-solicit, nd-neighbor-advert }",
    },
];

/// `guardedN`: addresses with ports; `addressesN`: addresses; `portsN` and `refuseN`: those of which other traffic is dropped as
/// these words say.
fn sets(endpoints: &[GuardedEndpoint]) -> String {
    let mut out = String::new();
    let others = others(endpoints);
    for Family { v6, kind, n, .. } in FAMILIES {
        let of_family = |address: &IpAddr| address.is_ipv6() == v6;
        let pairs = endpoints.iter().filter(|e| of_family(&e.address));
        let pairs = elements(pairs.map(|e| format!("{} . {}", e.address, e.port)));
        line!(
            out,
            "set guarded{n} {{ type {kind} . inet_service;{pairs} }}"
        );
        for (name, least) in [
            ("addresses", OtherTraffic::Pass),
            ("ports", OtherTraffic::Ports),
            ("refuse", OtherTraffic::Refuse),
        ] {
            let these = others.iter().filter(|(_, word)| **word >= least);
            let these = elements(these.map(|(address, _)| address).filter(|a| of_family(a)));
            line!(out, "set {name}{n} {{ type {kind};{these} }}");
        }
    }
    out
}

/// For each address the strictest word on other traffic.
fn others(endpoints: &[GuardedEndpoint]) -> BTreeMap<IpAddr, OtherTraffic> {
    let mut said: BTreeMap<IpAddr, Option<OtherTraffic>> = BTreeMap::new();
    for endpoint in endpoints {
        let word = said.entry(endpoint.address).or_default();
        *word = endpoint.other_traffic.max(*word);
    }
    let word = |word: Option<OtherTraffic>| word.unwrap_or(OtherTraffic::Ports);
    said.into_iter()
        .map(|(at, said)| (at, word(said)))
        .collect()
}

/// What a set has; nft takes no empty list.
fn elements(all: impl Iterator<Item = impl ToString>) -> String {
    match listed(all) {
        none if none == listed::<IpAddr>([]) => String::new(),
        some => format!(" elements = {some};"),
    }
}

/// A chain on a hook; rules follow, and a brace.
fn begin(out: &mut String, name: &str, kind: &str, hook: &str, priority: i16) {
    line!(out, "chain {name} {{");
    line!(
        out,
        "type {kind} hook {hook} priority {priority}; policy accept;"
    );
}

fn end(out: &mut String) {
    line!(out, "}}");
}

/// Drops what is for a guarded endpoint, and of what else is for its address what its word says. Errors of ICMP pass, and
/// IPv6's neighbour discovery. `from`: of which packets.
fn guarded(out: &mut String, from: &str, family: Family) {
    let Family { ip, n, errors, .. } = family;
    line!(out, "{from} {ip} daddr . th dport @guarded{n} counter drop");
    let portless = "meta l4proto != { tcp, udp, udplite }";
    line!(out, "{from} {ip} daddr @ports{n} {errors} accept");
    line!(out, "{from} {ip} daddr @ports{n} {portless} counter drop");
    line!(
        out,
        "{from} {ip} daddr @refuse{n} th dport != {{ 53, 67, 123 }} counter drop"
    );
}

/// What a guest may send from, where that is said, beside what it has to before it has an address. Never from a guarded one.
fn sources(out: &mut String, guest: &Mapping, family: Family) {
    let (index, Family { ip, n, v6, .. }) = (guest.index, family);
    line!(out, "iif {index} {ip} saddr @addresses{n} counter drop");
    let Some(own) = own(guest, family) else {
        return;
    };
    if v6 {
        line!(
            out,
            "iif {index} ip6 saddr != {{ ::, fe80::/10 }} ip6 saddr != {own} counter drop"
        );
        return;
    }
    line!(
        out,
        "iif {index} ip saddr != 0.0.0.0 ip saddr != {own} counter drop"
    );
    line!(
        out,
        "iif {index} ip saddr 0.0.0.0 meta l4proto != udp counter drop"
    );
    line!(
        out,
        "iif {index} ip saddr 0.0.0.0 udp dport != 67 counter drop"
    );
}

/// A guest's addresses of one family.
fn addresses(guest: &Mapping, family: Family) -> impl Iterator<Item = Network> {
    let all = guest.addresses.iter().copied();
    all.filter(move |network| network.is_ipv6() == family.v6)
}

/// The same as a set; none where it says nothing.
fn own(guest: &Mapping, family: Family) -> Option<String> {
    addresses(guest, family).next()?;
    Some(listed(addresses(guest, family)))
}

/// `{ a, b }`, each once.
fn listed<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let mut all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    all.sort_unstable();
    all.dedup();
    format!("{{ {} }}", all.join(", "))
}

#[cfg(test)]
mod tests;
