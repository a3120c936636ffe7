//! Real guests: QEMU, Debian's kernel, busybox. Each asks for a token once a second, from before the guard's start until the
//! test has seen enough; what it was told comes back over its second serial line.

#![expect(clippy::unwrap_used, reason = "a test may end with a panic")]

mod machine;

use imds_guard_tests::{UPSTREAM_TOKEN, World};
use machine::{Machine, subject};

/// Each guest may have a token minted for it, by its id.
const MINTS: &str = r#"
[endpoints]
azure-imds = "enforce"
[host]
trust_domain = "example.org"
name = "hypervisor-3"
[issuer]
url = "http://127.0.0.1:8787"
[identity.guest]
cloud = "azure"
source = "mint"
subject = "spiffe://{trust_domain}/host/{host}/{workload}"
"#;

/// A workload that may have a token.
fn may(name: &str, selectors: &str) -> String {
    format!(
        "[[workload]]\nname = \"{name}\"\nselectors = [{selectors}]\n[[workload.allow]]\ntoken = {{ cloud = \"azure\", resource = [\"https://vault.azure.net\"] }}\nidentity = \"guest\"\n"
    )
}

fn world(name: &str) -> World {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent, Nft, Guest);
    World::with_cloud(name).unwrap()
}

#[test]
#[ignore = "vm: cargo xtask test vm"]
fn a_machine_behind_a_tap_is_served_as_itself() {
    let world = world("tap");
    let azure = world.azure().unwrap();
    let tap = machine::tap(&world, "tw-tap0", Some("10.203.0.1/24"));
    let guest = Machine::boot(&world, &tap, 1, "10.203.0.2/24", "10.203.0.1");
    guest.hears(UPSTREAM_TOKEN);
    let guests = "[[guest]]\ninterface = \"tw-tap0\"\nid = \"build\"\n";
    let config = [MINTS, guests, &may("vm-build", "\"vm:id:build\"")].concat();
    let agent = world.agent().config(&config).start().unwrap();
    assert_eq!(
        subject(&guest.hears("eyJ")),
        "spiffe://example.org/host/hypervisor-3/vm-build"
    );
    // What was on its way when the guard came may have arrived; from here on nothing does.
    let asked = azure.received().len();
    let answers = guest.count("eyJ");
    guest.hears_more("eyJ", answers + 2);
    assert_eq!(azure.received().len(), asked, "it asked the real service");
    let line = agent.audit().wait_exchanges(1).unwrap().remove(0);
    assert_eq!(line["guest"]["interface"], "tw-tap0");
    // Gone, it is nobody; another machine at another interface of that name is served anew.
    drop(guest);
    drop(tap);
    let tap = machine::tap(&world, "tw-tap0", Some("10.203.0.1/24"));
    let guest = Machine::boot(&world, &tap, 2, "10.203.0.3/24", "10.203.0.1");
    assert_eq!(
        subject(&guest.hears("eyJ")),
        "spiffe://example.org/host/hypervisor-3/vm-build"
    );
}

#[test]
#[ignore = "vm: cargo xtask test vm"]
fn two_machines_on_one_bridge_are_each_served_as_itself() {
    let world = world("two");
    let _azure = world.azure().unwrap();
    world.bridge().unwrap();
    let taps = [1, 2].map(|n| machine::port(&world, &format!("tw-tap{n}")));
    let place = |n: u8| (format!("10.202.0.{}/24", n + 1), "10.202.0.1");
    let guests: Vec<Machine> = taps
        .iter()
        .zip(1..)
        .map(|(tap, n)| Machine::boot(&world, tap, n, &place(n).0, place(n).1))
        .collect();
    for guest in &guests {
        guest.hears(UPSTREAM_TOKEN);
    }
    let table = |n: u8, id: &str| {
        format!(
            "[[guest]]\ninterface = \"tw-tap{n}\"\nid = \"{id}\"\nmac = \"52:54:00:00:02:0{n}\"\naddress = [\"10.202.0.{}\"]\n",
            n + 1
        )
    };
    let config = [
        MINTS,
        &table(1, "shop"),
        &table(2, "mail"),
        &may("vm-shop", "\"vm:id:shop\""),
        &may("vm-mail", "\"vm:id:mail\", \"net:ifname:tw-tap2\""),
    ]
    .concat();
    let _agent = world.agent().config(&config).start().unwrap();
    for (guest, id) in guests.iter().zip(["shop", "mail"]) {
        assert_eq!(
            subject(&guest.hears("eyJ")),
            format!("spiffe://example.org/host/hypervisor-3/vm-{id}")
        );
    }
}

#[test]
#[ignore = "vm: cargo xtask test vm"]
fn a_machine_that_qemu_speaks_for_is_the_qemu_process() {
    let world = world("user");
    let _azure = world.azure().unwrap();
    let vm = world
        .workload("vm")
        .in_cgroup("machine.slice/vm.scope")
        .uid(1003)
        .gid(2003);
    let cgroup = format!("{}/machine.slice/vm.scope", world.cgroup_name().unwrap());
    let selectors = format!("\"unix:uid:1003\", \"cgroup:path:{cgroup}\"");
    let config = [MINTS, &may("vm-user", &selectors)].concat();
    let _agent = world.agent().config(&config).start().unwrap();
    let guest = Machine::of_user(&world, &vm);
    assert_eq!(
        subject(&guest.hears("eyJ")),
        "spiffe://example.org/host/hypervisor-3/vm-user"
    );
    let neighbour = world
        .workload("other")
        .in_cgroup("machine.slice/other.scope")
        .uid(1004)
        .gid(2004);
    let guest = Machine::of_user(&world, &neighbour);
    guest.hears("403");
    assert_eq!(guest.count("eyJ"), 0);
}
