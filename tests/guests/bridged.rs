//! Guests that share a bridge: neighbours on one wire.

use crate::guest::{
    IMDS, dial, dial_from_host, exchanges, get, ip, on_host, ports, refused, sub, subject, within,
};
use crate::{MINTS, TOKEN, bridged, config, world};
use imds_guard_tests::{Space, UPSTREAM_TOKEN, World};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

fn shared(name: &str) -> (World, Space, Space) {
    let world = world(name);
    world.bridge().unwrap();
    let (shop, mail) = (world.port(1).unwrap(), world.port(2).unwrap());
    (world, shop, mail)
}

fn both() -> String {
    config(
        "enforce",
        &[MINTS, &bridged(1, "shop"), &bridged(2, "mail")],
    )
}

/// A neighbour that stands where the real service stands, and answers everyone.
fn impostor(world: &World, guest: &Space) {
    ip(world, guest, "address add 169.254.169.254/32 dev tw-eth");
    let listener = world
        .enter_space(guest, || Ok(TcpListener::bind(IMDS_TEXT)?))
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut some = [0; 1024];
            let _what_it_asks = stream.read(&mut some);
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nimpostor");
        }
    });
}
const IMDS_TEXT: &str = "169.254.169.254:80";

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn each_port_is_served_as_itself_whoever_its_gateway_is() {
    let (world, shop, mail) = shared("ports");
    let azure = world.azure().unwrap();
    let stranger = world.port(3).unwrap();
    for guest in [&shop, &mail, &stranger] {
        assert!(get(&world, guest, TOKEN).text().contains(UPSTREAM_TOKEN));
    }
    let before = azure.received().len();
    let agent = world.agent().config(&both()).start().unwrap();
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
    assert_eq!(subject(&get(&world, &mail, TOKEN)), sub("mail"));
    assert_eq!(refused(&world, &stranger), ErrorKind::TimedOut);
    // A gateway that is another guest: its frames are for that one's station, and are served by the host all the same.
    ip(&world, &shop, "route replace default via 10.202.0.4");
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
    assert_eq!(azure.received().len(), before);
    assert_eq!(
        exchanges(&agent, "shop", 2)[1]["guest"]["interface"],
        "tw-p1"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_neighbours_address_or_station_is_dropped() {
    let (world, shop, mail) = shared("stations");
    let _agent = world.agent().config(&both()).start().unwrap();
    assert_eq!(subject(&get(&world, &mail, TOKEN)), sub("mail"));
    // Its address.
    ip(&world, &mail, "address add 10.202.0.3/24 dev tw-eth");
    ip(&world, &mail, "address add 10.202.0.77/24 dev tw-eth");
    ip(
        &world,
        &mail,
        "route replace 169.254.169.254 via 10.202.0.1 src 10.202.0.77",
    );
    assert_eq!(refused(&world, &mail), ErrorKind::TimedOut);
    ip(&world, &mail, "route del 169.254.169.254");
    assert_eq!(
        subject(&get(&world, &mail, TOKEN)),
        sub("mail"),
        "its own is good"
    );
    // Its station: then frames for the neighbour would come to it.
    ip(&world, &mail, "link set tw-eth address 52:54:00:00:00:01");
    assert_eq!(refused(&world, &mail), ErrorKind::TimedOut);
    assert_eq!(
        subject(&get(&world, &shop, TOKEN)),
        sub("shop"),
        "the bridge has not learned it"
    );
    ip(&world, &mail, "link set tw-eth address 52:54:00:00:00:02");
    assert!(within(Duration::from_secs(3), || dial(&world, &mail, IMDS).is_ok()));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_neighbours_address_claimed_by_arp_gets_no_answers() {
    let (world, shop, mail) = shared("claims");
    let claim = || {
        // The host takes no second word about an address within a second.
        std::thread::sleep(Duration::from_millis(1200));
        ip(&world, &mail, "address add 10.202.0.3/32 dev tw-eth");
        ip(
            &world,
            &mail,
            "route replace 10.202.0.1 dev tw-eth src 10.202.0.3",
        );
        ip(&world, &mail, "neigh flush dev tw-eth");
        // Who has the host's address? tell 10.202.0.3, at this station.
        let _who_cares = dial(&world, &mail, ([10, 202, 0, 1], 9));
        let told = on_host(&world, "ip neigh show 10.202.0.3");
        ip(&world, &mail, "address del 10.202.0.3/32 dev tw-eth");
        told
    };
    assert_eq!(
        dial_from_host(&world, ([10, 202, 0, 3], 9)).err(),
        Some(ErrorKind::ConnectionRefused)
    );
    assert!(
        claim().contains("52:54:00:00:00:02"),
        "without the guard the host believes it"
    );
    on_host(&world, "ip neigh flush dev tw-br");
    let _agent = world.agent().config(&both()).start().unwrap();
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
    let told = claim();
    assert!(
        told.contains("52:54:00:00:00:01") && !told.contains("52:54:00:00:00:02"),
        "{told}"
    );
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_neighbour_that_answers_for_the_metadata_address_is_not_heard() {
    let (world, shop, mail) = shared("impostor");
    impostor(&world, &mail);
    // To this guest the address is on its own wire: it asks who has it.
    ip(&world, &shop, "route replace 169.254.169.254 dev tw-eth");
    assert_eq!(
        get(&world, &shop, TOKEN).text(),
        "impostor",
        "without the guard"
    );
    let _agent = world.agent().config(&both()).start().unwrap();
    // Only now: the last words of that connection ask for the neighbour again, and where it is known the host answers.
    ip(&world, &shop, "neigh flush all");
    let kind = refused(&world, &shop);
    assert!(
        matches!(kind, ErrorKind::HostUnreachable | ErrorKind::TimedOut),
        "{kind}"
    );
    // Even where it knows the neighbour's station already, the host answers.
    ip(
        &world,
        &shop,
        "neigh replace 169.254.169.254 lladdr 52:54:00:00:00:02 dev tw-eth",
    );
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
    // A port that is no guest's gets nothing across, either.
    let stranger = world.port(3).unwrap();
    ip(
        &world,
        &stranger,
        "route replace 169.254.169.254 dev tw-eth",
    );
    ip(
        &world,
        &stranger,
        "neigh replace 169.254.169.254 lladdr 52:54:00:00:00:02 dev tw-eth",
    );
    assert_eq!(refused(&world, &stranger), ErrorKind::TimedOut);
    ip(&world, &stranger, "neigh del 169.254.169.254 dev tw-eth");
    let kind = refused(&world, &stranger);
    assert!(
        matches!(kind, ErrorKind::HostUnreachable | ErrorKind::TimedOut),
        "{kind}"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_dials_a_neighbours_listener() {
    let (world, shop, mail) = shared("neighbours");
    let _agent = world.agent().config(&both()).start().unwrap();
    let ports = ports(&world);
    assert_eq!(ports.len(), 2);
    for port in ports {
        for guest in [&shop, &mail] {
            assert_eq!(
                dial(&world, guest, ([10, 202, 0, 1], port)).err(),
                Some(ErrorKind::ConnectionRefused)
            );
        }
        assert_eq!(
            dial_from_host(&world, ([10, 202, 0, 1], port)).err(),
            Some(ErrorKind::ConnectionRefused)
        );
    }
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_port_that_says_nothing_of_itself_is_not_served() {
    let (world, shop, mail) = shared("unsaid");
    let unsaid = "[[guest]]\ninterface = \"tw-p2\"\nid = \"mail\"\n";
    let tables = [MINTS, &bridged(1, "shop"), unsaid];
    let agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    assert_eq!(subject(&get(&world, &shop, TOKEN)), sub("shop"));
    assert_eq!(refused(&world, &mail), ErrorKind::TimedOut);
    assert!(
        agent.log().contains("tw-p2") && agent.log().contains("`mac`"),
        "{}",
        agent.log()
    );
}
