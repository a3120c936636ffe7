//! What the rules say, line by line, and that the machine's own nft takes them.

use imds_guard_core::policy::settings::Mac;

use super::*;
use crate::intercept::guests::mapping::Bridge;

fn mapping(index: u32, bridge: Option<Bridge>) -> Mapping {
    Mapping {
        id: "shop".into(),
        interface: "vnet0".into(),
        index,
        bridge,
        addresses: ["10.0.0.2", "10.0.1.0/28", "fd00:1::2", "fd00:2::/64"]
            .map(|text| text.parse().unwrap())
            .into(),
        mac: Some(Mac::from([0x52, 0x54, 0, 0, 0, 1])),
    }
}

fn endpoints() -> Vec<GuardedEndpoint> {
    let all = [
        ("169.254.169.254", 80, None),
        ("168.63.129.16", 80, Some(OtherTraffic::Pass)),
        ("168.63.129.16", 32526, None),
        ("fd00:ec2::254", 80, Some(OtherTraffic::Refuse)),
        ("fd00:ec2::23", 80, None),
    ];
    let endpoint = |(address, port, other_traffic): (&str, u16, _)| GuardedEndpoint {
        address: address.parse().unwrap(),
        port,
        mode: imds_guard_ebpf::Mode::Enforce,
        id: std::num::NonZeroU32::MIN,
        denies: false,
        other_traffic,
    };
    all.map(endpoint).into()
}

#[test]
fn of_an_address_the_strictest_word_counts() {
    let sets = sets(&endpoints());
    for line in [
        "set ports4 { type ipv4_addr; elements = { 169.254.169.254 }; }",
        "set refuse6 { type ipv6_addr; elements = { fd00:ec2::254 }; }",
        "set refuse4 { type ipv4_addr; }",
        "set addresses4 { type ipv4_addr; elements = { 168.63.129.16, 169.254.169.254 }; }",
    ] {
        assert!(sets.contains(line), "{line}\nis not in\n{sets}");
    }
}

/// What nft makes of the script, in a network namespace of its own. (The loopback stands for every interface.)
fn taken(script: &str) -> Result<(), nft::NftError> {
    std::thread::scope(|scope| {
        let apply = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            nft::apply(script)?;
            // Once more: it replaces itself.
            nft::apply(script)
        };
        scope.spawn(apply).join().unwrap()
    })
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nft_takes_all_that_we_say() {
    let bridge = Bridge {
        index: 1,
        mac: Mac::from([0x52, 0x54, 0, 0, 1, 0]),
        others: vec![1],
    };
    let (tap, port) = (mapping(1, None), mapping(1, Some(bridge)));
    let served = |mapping, port| Served { mapping, port };
    let guests = [served(&tap, 40_000), served(&port, 40_001)];
    for endpoints in [
        endpoints(),
        endpoints()[..1].to_vec(),
        endpoints()[3..].to_vec(),
    ] {
        for guests in [&guests[..], &guests[..1], &[]] {
            taken(&script(&endpoints, guests)).unwrap();
            taken(&without_bridges(&endpoints, guests)).unwrap();
        }
    }
    taken(&removal()).unwrap();
    assert!(taken("table inet x { chain y { iif 1 nonsense } }").is_err());
}

#[test]
fn each_guest_has_its_port_and_a_bridged_one_its_mark() {
    let bridge = Bridge {
        index: 7,
        mac: Mac::from([2, 0, 0, 0, 0, 7]),
        others: vec![9, 10],
    };
    let (tap, port) = (mapping(5, None), mapping(8, Some(bridge)));
    let served = |mapping, port| Served { mapping, port };
    let text = script(&endpoints(), &[served(&tap, 40_000), served(&port, 40_001)]);
    for line in [
        "iif 5 ip daddr . tcp dport @guarded4 counter redirect to :40000",
        "iif 7 meta mark 1229823041 ip daddr . tcp dport @guarded4 counter redirect to :40001",
        "iif 8 ip daddr @addresses4 meta mark set 1229823041",
        "iif { 10, 9 } ether saddr 52:54:00:00:00:01 counter drop",
        "iif { 10, 9 } arp saddr ip { 10.0.0.2, 10.0.1.0/28 } counter drop",
        "iif != lo ip daddr . th dport @guarded4 counter drop",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}
