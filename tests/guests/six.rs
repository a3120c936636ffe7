//! Guests over IPv6: known by the same evidence, stopped at the same places.

use crate::guest::{Dialled, dial, dial_from_host, ip, on_host, ports, sub, subject, within};
use crate::{MINTS, TOKEN, config, routed, world};
use imds_guard_tests::{Response, Space, World};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

/// A metadata service that has this address alone. It is configured, for nobody ships it.
const SIX: &str = "[fd00:a::254]";
const ENDPOINT: &str = r#"
[[endpoint]]
name = "six"
cloud = "azure"
address = ["[fd00:a::254]:80"]
"#;

fn service(port: u16) -> SocketAddr {
    let at: Ipv6Addr = "fd00:a::254".parse().unwrap();
    (at, port).into()
}

/// The service a cable away, and a host that forwards.
fn with_service(name: &str) -> World {
    let world = world(name);
    std_write(&world, "ipv6/conf/all/forwarding");
    on_host(&world, "ip -6 address add fd00:200::1/64 dev tw-up nodad");
    let cloud = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        world
            .enter_cloud(|| crate::guest::tool("ip", &words))
            .unwrap();
    };
    cloud("-6 address add fd00:200::2/64 dev tw-down nodad");
    cloud("-6 address add fd00:a::254/128 dev lo nodad");
    cloud("-6 route add fd00:201::/32 via fd00:200::1");
    cloud("-6 route add fd00:202::/32 via fd00:200::1");
    on_host(&world, "ip -6 route add fd00:a::254/128 via fd00:200::2");
    let real = world
        .enter_cloud(|| Ok(TcpListener::bind(service(80))?))
        .unwrap();
    answering(real, "real");
    world
}

fn std_write(world: &World, name: &str) {
    let write = || Ok(std::fs::write(format!("/proc/sys/net/{name}"), "1")?);
    world.enter(write).unwrap();
}

/// Says who it is to whoever asks.
fn answering(listener: TcpListener, who: &'static str) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _what_it_asks = stream.read(&mut [0; 1024]);
            let length = who.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{who}");
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
}

/// The `number`th container, with an address of IPv6: fd00:201:N::2.
fn container(world: &World, number: u8) -> Space {
    let guest = world.container().unwrap();
    on_host(
        world,
        &format!("ip -6 address add fd00:201:{number}::1/64 dev tw-s{number} nodad"),
    );
    ip(
        world,
        &guest,
        &format!("-6 address add fd00:201:{number}::2/64 dev tw-eth nodad"),
    );
    ip(
        world,
        &guest,
        &format!("-6 route add default via fd00:201:{number}::1"),
    );
    guest
}

/// The `number`th port of the bridge: fd00:202::N+2.
fn port(world: &World, number: u8) -> Space {
    let guest = world.port(number).unwrap();
    let own = number + 2;
    ip(
        world,
        &guest,
        &format!("-6 address add fd00:202::{own}/64 dev tw-eth nodad"),
    );
    ip(world, &guest, "-6 route add default via fd00:202::1");
    guest
}

fn bridged(number: u8, id: &str) -> String {
    let own = number + 2;
    crate::bridged(number, id).replace(
        &format!("\"10.202.0.{own}\""),
        &format!("\"10.202.0.{own}\", \"fd00:202::{own}\""),
    )
}

fn dialled(world: &World, guest: &Space) -> Dialled {
    dial(world, guest, service(80))
}

#[track_caller]
fn get(world: &World, guest: &Space) -> Response {
    // Neighbours have to find each other first.
    let mut line = Err(ErrorKind::TimedOut);
    within(Duration::from_secs(5), || {
        line = dialled(world, guest);
        line.is_ok()
    });
    let line = line.map_err(|kind| format!("{kind}"));
    line.unwrap().get_of(SIX, TOKEN).unwrap()
}

#[track_caller]
fn refused(world: &World, guest: &Space) -> ErrorKind {
    dialled(world, guest).err().expect("it was let in")
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_routed_guest_is_served_as_itself_and_its_neighbour_not_at_all() {
    let world = with_service("six-routed");
    let (build, stranger) = (container(&world, 0), container(&world, 1));
    for guest in [&build, &stranger] {
        assert_eq!(get(&world, guest).text(), "real", "without the guard");
    }
    let own = format!(
        "{}address = [\"10.201.0.2\", \"fd00:201::2\"]\n",
        routed("tw-s0", "build")
    );
    let text = config("enforce", &[MINTS, ENDPOINT, &own]);
    let _agent = world.agent().config(&text).start().unwrap();
    assert_eq!(subject(&get(&world, &build)), sub("build"));
    assert_eq!(refused(&world, &stranger), ErrorKind::TimedOut);
    // From an address that it has not said, it is nobody.
    ip(
        &world,
        &build,
        "-6 address add fd00:201::99/64 dev tw-eth nodad",
    );
    ip(
        &world,
        &build,
        "-6 route add fd00:a::254/128 via fd00:201::1 src fd00:201::99",
    );
    assert_eq!(refused(&world, &build), ErrorKind::TimedOut);
    ip(&world, &build, "-6 address del fd00:201::99/64 dev tw-eth");
    ip(
        &world,
        &build,
        "-6 route replace fd00:a::254/128 via fd00:201::1",
    );
    assert_eq!(subject(&get(&world, &build)), sub("build"));
    for port in ports(&world) {
        let at: Ipv6Addr = "fd00:201::1".parse().unwrap();
        for guest in [&build, &stranger] {
            assert!(
                dial(&world, guest, (at, port)).is_err(),
                "the listener itself"
            );
        }
        let host = dial_from_host(&world, (at, port));
        assert_eq!(host.err(), Some(ErrorKind::ConnectionRefused));
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn datagrams_and_fragments_are_dropped_and_other_ports_left_alone() {
    let world = with_service("six-other");
    let guest = container(&world, 0);
    let [http, names] = [80, 53].map(|port| {
        let socket = world.enter_cloud(|| Ok(UdpSocket::bind(service(port))?));
        let socket = socket.unwrap();
        let patience = Some(Duration::from_millis(400));
        socket.set_read_timeout(patience).unwrap();
        socket
    });
    let heard = |port: u16, size: usize| {
        let send = || Ok(UdpSocket::bind("[::]:0")?.send_to(&vec![1; size], service(port))?);
        world.enter_space(&guest, send).unwrap();
        let service = if port == 80 { &http } else { &names };
        service.recv(&mut vec![0; 8192]).is_ok()
    };
    // Neighbours have to find each other first.
    assert!(within(Duration::from_secs(5), || heard(80, 10)));
    while http.recv(&mut [0; 64]).is_ok() {}
    assert!(heard(80, 4000) && heard(53, 10) && heard(53, 4000));
    let text = config("enforce", &[MINTS, ENDPOINT, &routed("tw-s0", "build")]);
    let _agent = world.agent().config(&text).start().unwrap();
    assert!(!heard(80, 10) && !heard(80, 4000));
    assert!(!heard(53, 4000), "fragments don't tell their port");
    assert!(heard(53, 10));
    assert_eq!(subject(&get(&world, &guest)), sub("build"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn neighbours_on_a_bridge_are_each_themselves_and_nobody_speaks_for_the_service() {
    let world = with_service("six-bridged");
    world.bridge().unwrap();
    on_host(&world, "ip -6 address add fd00:202::1/64 dev tw-br nodad");
    let (shop, mail, stranger) = (port(&world, 1), port(&world, 2), port(&world, 3));
    assert_eq!(get(&world, &stranger).text(), "real", "without the guard");
    // To the first the service is on its own wire: it asks who has the address, and its neighbour says it does.
    ip(
        &world,
        &mail,
        "-6 address add fd00:a::254/128 dev tw-eth nodad",
    );
    let impostor = || Ok(TcpListener::bind(service(80))?);
    answering(world.enter_space(&mail, impostor).unwrap(), "impostor");
    ip(&world, &shop, "-6 route add fd00:a::254/128 dev tw-eth");
    assert_eq!(get(&world, &shop).text(), "impostor", "without the guard");
    ip(&world, &shop, "-6 neigh flush all");
    let tables = [MINTS, ENDPOINT, &bridged(1, "shop"), &bridged(2, "mail")];
    let _agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    let kind = refused(&world, &shop);
    assert!(
        matches!(kind, ErrorKind::HostUnreachable | ErrorKind::TimedOut),
        "{kind}"
    );
    // Even where it knows the neighbour's station already, the host answers.
    let known = "-6 neigh replace fd00:a::254 lladdr 52:54:00:00:00:02 dev tw-eth";
    ip(&world, &shop, known);
    assert_eq!(subject(&get(&world, &shop)), sub("shop"));
    ip(&world, &mail, "-6 address del fd00:a::254/128 dev tw-eth");
    assert_eq!(subject(&get(&world, &mail)), sub("mail"));
    assert_eq!(refused(&world, &stranger), ErrorKind::TimedOut);
    // A neighbour's address makes nobody the neighbour.
    ip(
        &world,
        &mail,
        "-6 address add fd00:202::3/128 dev tw-eth nodad",
    );
    ip(
        &world,
        &mail,
        "-6 route add fd00:a::254/128 via fd00:202::1 src fd00:202::3",
    );
    assert_eq!(refused(&world, &mail), ErrorKind::TimedOut);
    ip(&world, &shop, "-6 neigh del fd00:a::254 dev tw-eth");
    ip(&world, &shop, "-6 route del fd00:a::254/128 dev tw-eth");
    assert_eq!(subject(&get(&world, &shop)), sub("shop"));
}
