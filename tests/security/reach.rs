//! Other ways to a metadata service than the host's own: a namespace on the uplink's wire, the addresses of every provider, a
//! go-between, and packets for the loopback that come from outside.

use anyhow::{Context as _, Result, ensure};
use imds_guard_core::policy::settings::SHIPPED;
use imds_guard_tests::{AZURE_IMDS, Space, UPSTREAM_TOKEN, Workload, World, require};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;

use super::egress::{Cable, FORWARDS, IMDS, NEIGHBOUR, ip};
use super::{POLICY, TOKEN, agent, get, python};

/// An interface of its own on the uplink's wire, in a namespace of its own: what it sends is routed by nobody here.
fn on_the_wire(world: &World) -> Result<Space> {
    let space = world.unconnected()?;
    let there = space.path();
    world.enter(|| {
        ip(&format!(
            "link add link tw-up name tw-wire netns {there} type macvlan mode bridge"
        ))
    })?;
    world.enter_space(&space, || {
        ip("address add 10.200.0.3/24 dev tw-wire")?;
        ip("link set tw-wire up")?;
        ip("route add default via 10.200.0.2")
    })?;
    Ok(space)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_namespace_on_the_uplinks_own_wire_is_no_way_past_us() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("wire")?;
    let world = &cable.world;
    let azure = world.azure()?;
    let space = on_the_wire(world)?;
    let within = |uid: u32| world.workload("tenant").uid(uid).in_space(&space);
    let ask = |who: &Workload<'_>| -> Result<u16> {
        let mut caller = who.connect_with(AZURE_IMDS, &["--again=2000"])?;
        caller.send(&get(TOKEN))?;
        Ok(caller.response()?.status)
    };
    let frame = |target: &str| -> Result<bool> {
        let attacker = within(0).gid(0);
        Ok(cable
            .arrives_from(&attacker, "tw-wire", "packet", target)?
            .0)
    };
    let from = || -> Option<IpAddr> { azure.received().pop().map(|request| request.from) };
    assert_eq!(ask(&within(1001))?, 200);
    assert_eq!(
        from(),
        Some("10.200.0.3".parse()?),
        "it needs no route of ours"
    );
    assert!(frame(IMDS)?);
    let _agent = world.agent().config(FORWARDS).start()?;
    assert_eq!(ask(&within(1001))?, 403);
    assert_eq!(azure.received().len(), 1);
    assert_eq!(ask(&within(1000))?, 200);
    assert_eq!(
        from(),
        Some("10.200.0.1".parse()?),
        "the proxy asked for it"
    );
    assert!(!frame(IMDS)?);
    assert!(frame(NEIGHBOUR)?);
    Ok(())
}

/// Dials each address and asks.
const EACH: &str = r#"
for each in sys.argv[1:]:
    address, port = each.rsplit(" ", 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        say(each, ask(connect((address, int(port)), family=family)))
    except OSError as error:
        say(each, "errno", error.errno)
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn every_address_of_every_provider_is_guarded() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("providers")?;
    let shipped = SHIPPED.iter().flat_map(|(_, _, addresses)| *addresses);
    let mut all: Vec<SocketAddr> = shipped.map(|&(at, port)| (at, port).into()).collect();
    all.sort_unstable();
    all.dedup();
    assert!(all.len() >= 8, "{all:?}");
    let real: Vec<TcpListener> = world.enter(|| {
        for at in &all {
            let at = at.ip();
            if at.is_ipv6() {
                ip(&format!("-6 address replace {at}/128 dev lo nodad"))?;
            } else {
                ip(&format!("address replace {at}/32 dev lo"))?;
            }
        }
        let listen = |at: &SocketAddr| {
            let listener = TcpListener::bind(at).with_context(|| at.to_string())?;
            listener.set_nonblocking(true)?;
            anyhow::Ok(listener)
        };
        all.iter().map(listen).collect()
    })?;
    let words: Vec<String> = all
        .iter()
        .map(|at| format!("{} {}", at.ip(), at.port()))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (listener, at) in real.iter().zip(&all) {
        let _connected = world
            .workload("nobody")
            .uid(1001)
            .connect(&at.to_string())?;
        assert!(listener.accept().is_ok(), "without the guard: {at}");
    }
    let names: Vec<String> = SHIPPED
        .iter()
        .map(|(name, ..)| format!("{name} = \"enforce\"\n"))
        .collect();
    let policy = format!("[endpoints]\n{}{POLICY}", names.concat());
    let _agent = world.agent().config(&policy).start()?;
    let said = python(&world.workload("nobody").uid(1001), EACH, &words)?;
    assert_eq!(said.lines().count(), all.len(), "{said}");
    for line in said.lines() {
        let status = line.rsplit(' ').next().unwrap_or_default();
        assert!(status.len() == 3 && status.starts_with('4'), "{line}");
    }
    for (listener, at) in real.iter().zip(&all) {
        assert!(listener.accept().is_err(), "{at} was reached");
    }
    let said = python(&world.workload("billing"), EACH, &["169.254.169.254 80"])?;
    assert_eq!(said, "169.254.169.254 80 200\n");
    Ok(())
}

/// A go-between: takes one connection and passes on whatever comes, to the metadata service and back. Then somebody asks it.
const RELAY: &str = r#"
relay, asker = int(sys.argv[1]), int(sys.argv[2])
listener = socket.create_server(("127.0.0.1", 9000))
if os.fork() == 0:
    become(relay)
    here, _ = listener.accept()
    there = connect()
    there.sendall(here.recv(65536))
    while piece := there.recv(65536): here.sendall(piece)
    os._exit(0)
become(asker)
say(ask(connect(("127.0.0.1", 9000)), more="Connection: close\r\n"), ask(connect()))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_go_between_is_asked_who_it_is_itself() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("relay")?;
    let _agent = agent(&world)?;
    let root = world.workload("both").uid(0).gid(0);
    assert_eq!(python(&root, RELAY, &["1001", "1000"])?, "403 200\n");
    // What a granted one passes on is its own to give: nothing here can know.
    assert_eq!(python(&root, RELAY, &["1000", "1001"])?, "200 403\n");
    Ok(())
}

/// What a host with `route_localnet` lets in: packets that come by a cable, sent on to its loopback as some proxies have it.
fn from_outside(world: &World) -> Result<Space> {
    let outside = world.container()?;
    world.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/tw-s0/route_localnet", "1")?;
        let rules = "table ip outside {
            chain in { type nat hook prerouting priority -100; tcp dport { 8788, 9000 } dnat to 127.0.0.1; }
        }";
        let made = Command::new("nft").arg(rules).status()?;
        ensure!(made.success(), "nft");
        Ok(())
    })?;
    Ok(outside)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_reaches_the_loopback_from_outside_is_nobody_there() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, Nft);
    let world = World::with_cloud("localnet")?;
    let azure = world.azure()?;
    let outside = from_outside(&world)?;
    let billing = world.workload("billing");
    let there = billing.clone().in_space(&outside);
    // The way is open: somebody's service on the loopback is reached.
    let service = world.enter(|| Ok(TcpListener::bind("127.0.0.1:9000")?))?;
    let _connected = there.connect("10.201.0.1:9000")?;
    assert_eq!(service.accept()?.1.ip(), IpAddr::from([10, 201, 0, 2]));
    let _agent = world.agent().config(FORWARDS).start()?;
    let mut caller = there.connect("10.201.0.1:8788")?;
    caller.send(&get(TOKEN))?;
    let answer = caller.response()?;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("could not be identified"));
    assert!(azure.received().is_empty());
    let answer = billing.get(TOKEN)?;
    assert!(answer.text().contains(UPSTREAM_TOKEN), "{}", answer.text());
    Ok(())
}
