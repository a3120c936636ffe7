//! Guests behind interfaces of their own, routed by the host.

use crate::guest::{IMDS, dial, dial_from_host, exchanges, get, ip, ports, refused, sub, subject};
use crate::{LOCATION, MINTS, TOKEN, config, routed, world};
use imds_guard_tests::UPSTREAM_TOKEN;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn each_interface_is_served_as_itself_and_an_unknown_one_not_at_all() {
    let world = world("routed");
    let azure = world.azure().unwrap();
    let [build, mail, stranger] = [(); 3].map(|()| world.container().unwrap());
    // Without the guard, each of them is the machine.
    for guest in [&build, &mail, &stranger] {
        assert!(get(&world, guest, TOKEN).text().contains(UPSTREAM_TOKEN));
    }
    let before = azure.received().len();
    let tables = [MINTS, &routed("tw-s0", "build"), &routed("tw-s1", "mail")];
    let agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    assert_eq!(subject(&get(&world, &build, TOKEN)), sub("build"));
    assert_eq!(subject(&get(&world, &mail, TOKEN)), sub("mail"));
    assert_eq!(get(&world, &mail, LOCATION).status, 403);
    assert_eq!(refused(&world, &stranger), ErrorKind::TimedOut);
    assert_eq!(
        azure.received().len(),
        before,
        "nothing reached the real service"
    );
    let line = &exchanges(&agent, "build", 1)[0];
    assert_eq!(line["guest"]["interface"], "tw-s0");
    assert_eq!(line["guest"]["endpoint"], "169.254.169.254:80");
    assert_eq!(line["workload"], "guests");
    assert!(line["caller"].is_null(), "it is no process: {line}");
    let signed = agent.audit().records().unwrap();
    let signed = signed
        .iter()
        .find(|line| line["event"] == "signed" && line["guest"]["id"] == "mail");
    assert_eq!(signed.unwrap()["sub"], sub("mail"));
    assert_eq!(
        exchanges(&agent, "mail", 2)[1]["denial"]["reason"],
        "no_rule"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_neighbours_source_address_makes_nobody_the_neighbour() {
    let world = world("spoof");
    let [build, mail] = [(); 2].map(|()| world.container().unwrap());
    let tables = [MINTS, &routed("tw-s0", "build"), &routed("tw-s1", "mail")];
    let agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    // The neighbour's address on its own interface, and everything sent from it.
    ip(&world, &mail, "address add 10.201.0.2/32 dev tw-eth");
    ip(
        &world,
        &mail,
        "route replace 169.254.169.254 via 10.201.1.1 src 10.201.0.2",
    );
    match dial(&world, &mail, IMDS) {
        // Its answers can go nowhere but to its own interface.
        Ok(mut line) => assert_eq!(subject(&line.get(TOKEN).unwrap()), sub("mail")),
        Err(kind) => assert_eq!(kind, ErrorKind::TimedOut),
    }
    assert_eq!(subject(&get(&world, &build, TOKEN)), sub("build"));
    assert_eq!(
        exchanges(&agent, "build", 1)[0]["guest"]["address"]
            .as_str()
            .map(|a| a.starts_with("10.201.0.2:")),
        Some(true)
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_a_guest_may_send_from_is_all_that_it_sends_from() {
    let world = world("sources");
    let guest = world.container().unwrap();
    let table = format!("{}address = [\"10.201.0.2\"]\n", routed("tw-s0", "build"));
    let _agent = world
        .agent()
        .config(&config("enforce", &[MINTS, &table]))
        .start()
        .unwrap();
    assert_eq!(subject(&get(&world, &guest, TOKEN)), sub("build"));
    ip(&world, &guest, "address add 10.201.0.99/24 dev tw-eth");
    ip(
        &world,
        &guest,
        "route replace 169.254.169.254 via 10.201.0.1 src 10.201.0.99",
    );
    assert_eq!(refused(&world, &guest), ErrorKind::TimedOut);
    ip(
        &world,
        &guest,
        "route replace 169.254.169.254 via 10.201.0.1 src 10.201.0.2",
    );
    assert_eq!(subject(&get(&world, &guest, TOKEN)), sub("build"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_dials_the_listener_itself() {
    let world = world("direct");
    let [build, mail, stranger] = [(); 3].map(|()| world.container().unwrap());
    let tables = [MINTS, &routed("tw-s0", "build"), &routed("tw-s1", "mail")];
    let agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    let ports = ports(&world);
    assert_eq!(ports.len(), 2, "{ports:?}");
    for port in ports {
        for (guest, gateway) in [(&build, 0), (&mail, 1), (&stranger, 2)] {
            for address in [[10, 201, gateway, 1], [10, 201, 0, 1], [169, 254, 169, 254]] {
                let dialled = dial(&world, guest, (address, port));
                assert!(dialled.is_err(), "{gateway} at {address:?}:{port}");
            }
        }
        for address in [[10, 201, 0, 1], [10, 201, 1, 1], [127, 0, 0, 1]] {
            let dialled = dial_from_host(&world, (address, port));
            assert_eq!(
                dialled.err(),
                Some(ErrorKind::ConnectionRefused),
                "{address:?}:{port}"
            );
        }
    }
    // The guard's own listener, on the loopback: packets for that don't come from outside.
    assert!(dial(&world, &build, ([10, 201, 0, 1], 43518)).is_err());
    assert_eq!(subject(&get(&world, &build, TOKEN)), sub("build"));
    assert_eq!(
        agent
            .audit()
            .exchanges()
            .unwrap()
            .iter()
            .filter(|l| l["reason"] == "unattributed")
            .count(),
        0
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn other_protocols_and_fragments_are_dropped_and_other_ports_left_alone() {
    let world = world("protocols");
    let guest = world.container().unwrap();
    let at = |port| SocketAddr::from(([169, 254, 169, 254], port));
    let [http, names] = [80, 53].map(|port| {
        let service = world
            .enter_cloud(|| Ok(UdpSocket::bind(at(port))?))
            .unwrap();
        let patience = Some(Duration::from_millis(400));
        service.set_read_timeout(patience).unwrap();
        service
    });
    let heard = |port: u16, size: usize| {
        let send = || Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(&vec![1; size], at(port))?);
        world.enter_space(&guest, send).unwrap();
        let service = if port == 80 { &http } else { &names };
        service.recv(&mut vec![0; 8192]).is_ok()
    };
    assert!(heard(80, 10) && heard(80, 4000) && heard(53, 10) && heard(53, 4000));
    let tables = [MINTS, &routed("tw-s0", "build")];
    let agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    assert!(!heard(80, 10), "UDP to the guarded port");
    assert!(!heard(80, 4000), "in fragments");
    assert!(!heard(53, 4000), "fragments don't tell their port");
    assert!(heard(53, 10), "names are resolved there in some clouds");
    drop(agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn where_nothing_is_enforced_guests_are_left_as_they_were() {
    let world = world("modes");
    let azure = world.azure().unwrap();
    let [known, unknown] = [(); 2].map(|()| world.container().unwrap());
    for mode in ["observe", "audit"] {
        let tables = [MINTS, &routed("tw-s0", "build")];
        let agent = world
            .agent()
            .config(&config(mode, &tables))
            .start()
            .unwrap();
        for guest in [&known, &unknown] {
            assert!(
                get(&world, guest, TOKEN).text().contains(UPSTREAM_TOKEN),
                "{mode}"
            );
        }
        assert_eq!(
            agent.audit().records().unwrap(),
            Vec::<serde_json::Value>::new()
        );
        drop(agent);
    }
    assert_eq!(azure.received().len(), 4);
    let tables = [MINTS, &routed("tw-s0", "build")];
    let _agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    assert_eq!(subject(&get(&world, &known, TOKEN)), sub("build"));
    assert_eq!(refused(&world, &unknown), ErrorKind::TimedOut);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_forwarded_identity_is_the_one_that_its_rule_pins() {
    let world = world("forward");
    let azure = world.azure().unwrap();
    let guest = world.container().unwrap();
    let rules = r#"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"
[[workload]]
name = "build"
selectors = ["vm:id:build", "net:ifname:tw-s0"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "real"
"#;
    let _agent = world
        .agent()
        .config(&config("enforce", &[rules, &routed("tw-s0", "build")]))
        .start()
        .unwrap();
    assert!(get(&world, &guest, TOKEN).text().contains(UPSTREAM_TOKEN));
    let received = azure.received();
    assert!(
        received[0]
            .line
            .contains("client_id=11111111-2222-3333-4444-555555555555"),
        "{received:?}"
    );
    let other = format!("{TOKEN}&client_id=99999999-2222-3333-4444-555555555555");
    assert_eq!(get(&world, &guest, &other).status, 403);
    assert_eq!(azure.received().len(), 1);
}
