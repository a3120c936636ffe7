//! netfilter's rules for frames that leave by an uplink. They see what no BPF program does: frames that bypass the queueing
//! discipline. They don't see the socket, so the proxy's own packets carry 64 bits that only our program on the socket's
//! side can set and that these rules take off again ([`Passage`], decision 0014).
//!
//! What the rules say is what `ebpf/src/packet.rs` says; there it is explained.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use imds_guard_ebpf::{Mode, OtherTraffic, Passage};

use super::{GuardedEndpoint, found::Interface};

/// What is said of one address.
#[derive(Debug, Default)]
struct Address {
    ports: BTreeSet<u16>,
    other_traffic: Option<OtherTraffic>,
}

/// The body of the table; none where there is nothing to guard or nowhere to.
pub(super) fn body(
    interfaces: &[Interface],
    endpoints: &[GuardedEndpoint],
    passage: Passage,
) -> Option<String> {
    let addresses = addresses(endpoints);
    if addresses.is_empty() || interfaces.is_empty() {
        return None;
    }
    let mut rules = String::new();
    let mut line = |text: String| {
        rules.push_str(&text);
        rules.push('\n');
    };
    line(format!("chain guarded {{\n{}counter drop\n}}", bare()));
    for (n, address) in addresses.values().enumerate() {
        line(format!("chain address{n} {{\n{}}}", address.rules()));
    }
    line("chain tagged {".into());
    addresses.keys().for_each(|at| line(tagged(*at)));
    line("@ll,128,16 { 0x8100, 0x88a8 } @ll,160,16 { 0x8100, 0x88a8 } counter drop\n}".into());
    let names = |of: &dyn Fn(&&Interface) -> bool| {
        let names = interfaces
            .iter()
            .filter(of)
            .map(|i| format!("\"{}\"", i.name));
        names.collect::<Vec<_>>().join(", ")
    };
    line(format!(
        "chain egress {{\ntype filter hook egress devices = {{ {} }} priority -150; policy accept;",
        names(&|_| true)
    ));
    let Passage { mark, priority } = passage;
    let ours = format!(
        "meta mark {mark:#x} meta priority {:x}:{:x}",
        priority >> 16,
        priority & 0xffff
    );
    // Below, another interface of ours has to know them again.
    let upper = names(&|i| !i.lowest);
    if !upper.is_empty() {
        line(format!("oifname {{ {upper} }} {ours} accept"));
    }
    line(format!(
        "{ours} meta mark set 0 meta priority set none accept"
    ));
    line("meta protocol { 8021q, 8021ad } jump tagged".into());
    for (n, at) in addresses.keys().enumerate() {
        line(match at {
            IpAddr::V4(v4) => {
                format!(
                    "ip daddr {v4} jump address{n}\nip6 daddr {} jump address{n}",
                    nat64(*v4)
                )
            }
            IpAddr::V6(v6) => format!("ip6 daddr {v6} jump address{n}"),
        });
    }
    line("}".into());
    Some(rules)
}

fn addresses(endpoints: &[GuardedEndpoint]) -> BTreeMap<IpAddr, Address> {
    let mut addresses: BTreeMap<IpAddr, Address> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|e| e.mode == Mode::Enforce) {
        let address = addresses
            .entry(endpoint.address.to_canonical())
            .or_default();
        address.ports.insert(endpoint.port);
        address.other_traffic = endpoint.other_traffic.max(address.other_traffic);
    }
    addresses
}

impl Address {
    fn rules(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let others = match self.other_traffic.unwrap_or(OtherTraffic::Ports) {
            OtherTraffic::Pass => "",
            OtherTraffic::Ports => "meta l4proto { tcp, udp, udplite } accept\ncounter drop\n",
            OtherTraffic::Refuse => {
                "meta l4proto { tcp, udp, udplite } th dport { 53, 67, 123 } accept\ncounter drop\n"
            }
        };
        format!(
            "ip frag-off & 0x3fff != 0 counter drop\n\
             ip6 nexthdr {{ 0, 43, 44, 51, 60, 135, 139, 140 }} counter drop\n\
             icmp type {{ 3, 4, 11, 12 }} accept\n\
             icmpv6 type {{ 1-4, 130-137, 143 }} accept\n\
             meta l4proto {{ tcp, udp, udplite }} th dport {{ {} }} goto guarded\n{others}",
            ports.join(", ")
        )
    }
}

/// Acknowledgements and resets with nothing in them.
fn bare() -> String {
    let mut rules = String::new();
    for words in 5..=15 {
        let flags = "tcp flags & (fin | syn | psh | urg) == 0";
        let (tcp, whole) = (words * 4, 20 + words * 4);
        rules.push_str(&format!(
            "ip hdrlength 5 ip length {whole} {flags} tcp doff {words} accept\n\
             ip6 length {tcp} {flags} tcp doff {words} accept\n"
        ));
    }
    rules
}

/// A frame whose sender wrote a VLAN tag, or two: netfilter doesn't look behind these by itself. Offsets in bits.
fn tagged(at: IpAddr) -> String {
    let mut rules = String::new();
    let mut rule = |kind: &str, destination: u32, bits: u32, value: String| {
        for (tags, ethertype) in [(1, 128), (2, 160)] {
            let destination = (14 + 4 * tags) * 8 + destination;
            rules.push_str(&format!(
                "@ll,{ethertype},16 {kind} @ll,{destination},{bits} 0x{value} counter drop\n"
            ));
        }
    };
    match at {
        IpAddr::V4(v4) => {
            rule("0x0800", 16 * 8, 32, format!("{:08x}", u32::from(v4)));
            rule(
                "0x86dd",
                24 * 8,
                128,
                format!("{:032x}", u128::from(nat64(v4))),
            );
        }
        IpAddr::V6(v6) => rule("0x86dd", 24 * 8, 128, format!("{:032x}", u128::from(v6))),
    }
    rules
}

/// The address by which NAT64 reaches an IPv4 address.
fn nat64(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets().map(u16::from);
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn guarded(address: &str, mode: Mode) -> GuardedEndpoint {
        GuardedEndpoint {
            address: address.parse().unwrap(),
            port: 80,
            mode,
            id: NonZeroU32::MIN,
            denies: false,
            other_traffic: None,
        }
    }

    fn interface(name: &str, lowest: bool) -> Interface {
        Interface {
            name: name.into(),
            index: 2,
            ethernet: true,
            lowest,
        }
    }

    const PASSAGE: Passage = Passage {
        mark: 0x1234,
        priority: 0xabcd_ef01,
    };

    #[test]
    fn nothing_to_guard_is_no_table() {
        let enforced = [guarded("169.254.169.254", Mode::Enforce)];
        let audited = [guarded("169.254.169.254", Mode::Audit)];
        let uplink = [interface("eth0", true)];
        assert!(body(&[], &enforced, PASSAGE).is_none());
        assert!(body(&uplink, &audited, PASSAGE).is_none());
        assert!(body(&uplink, &enforced, PASSAGE).is_some());
    }

    #[test]
    fn the_passage_is_taken_off_where_the_wire_begins_and_nowhere_else() {
        let enforced = [guarded("169.254.169.254", Mode::Enforce)];
        let both = [interface("bond0", false), interface("eth0", true)];
        let rules = body(&both, &enforced, PASSAGE).unwrap();
        let ours = "meta mark 0x1234 meta priority abcd:ef01";
        assert!(rules.contains(&format!("oifname {{ \"bond0\" }} {ours} accept")));
        assert!(rules.contains(&format!(
            "{ours} meta mark set 0 meta priority set none accept"
        )));
    }

    #[test]
    fn nat64_is_rfc_6052s() {
        let address = nat64("169.254.169.254".parse().unwrap());
        assert_eq!(address.to_string(), "64:ff9b::a9fe:a9fe");
    }
}
