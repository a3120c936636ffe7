//! Odd ways to dial: whatever a caller does to spell the address or to call `connect()`, it meets the policy. Each way first
//! shows that it reaches the real service while nobody guards.

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{World, require};
use nix::net::if_::if_nametoindex;
use std::net::{SocketAddrV6, TcpListener};
use std::path::Path;

use super::egress::ip;
use super::{POLICY, TOKEN};

const DIALLER: &str = include_str!("dial.py");

/// By (way, address).
const WAYS: [(&str, &str); 12] = [
    ("plain", "169.254.169.254"),
    ("plain", "2852039166"),
    ("plain", "0xA9FEA9FE"),
    ("plain", "0251.0376.0251.0376"),
    ("plain", "169.254.43518"),
    ("plain", "::ffff:169.254.169.254"),
    ("mptcp", "169.254.169.254"),
    ("fast-open", "169.254.169.254"),
    ("unspec", "169.254.169.254"),
    ("uring", "169.254.169.254"),
    ("uring-async", "169.254.169.254"),
    ("uring-polled", "169.254.169.254"),
];

/// What uid sees who dials that way.
fn dial(world: &World, uid: u32, way: &str, address: &str) -> Result<String> {
    let mut said = dial_each(world, uid, &[(way, address)])?;
    said.pop().context("nothing was said")
}

/// The same for many ways, one after the other.
fn dial_each(world: &World, uid: u32, ways: &[(&str, &str)]) -> Result<Vec<String>> {
    let python = Path::new("/usr/bin/python3");
    let caller = world.workload("caller").uid(uid);
    let ways_in_words = ways.iter().flat_map(|(way, address)| [*way, *address]);
    let arguments: Vec<&str> = ["-c", DIALLER, "80", TOKEN]
        .into_iter()
        .chain(ways_in_words)
        .collect();
    let output = caller.run(python, &arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{ways:?}: {errors}");
    let said = String::from_utf8(output.stdout)?;
    Ok(said.lines().map(str::to_owned).collect())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn however_it_is_dialled_the_policy_answers() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("dial")?;
    let azure = world.azure()?;
    let all = |status: &str| vec![status.to_owned(); WAYS.len()];
    let said = dial_each(&world, 1001, &WAYS)?;
    assert_eq!(said, all("200"), "without the guard, {WAYS:?}");
    assert!(azure.connections() >= WAYS.len());
    let before = azure.connections();
    let _agent = world.agent().config(POLICY).start()?;
    assert_eq!(dial_each(&world, 1000, &WAYS)?, all("200"), "{WAYS:?}");
    assert_eq!(dial_each(&world, 1001, &WAYS)?, all("403"), "{WAYS:?}");
    // Root with a mark of its own is a caller like others.
    assert_eq!(dial(&world, 0, "marked", "169.254.169.254")?, "403");
    assert_eq!(azure.connections(), before);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn aliases_of_the_address_are_the_address() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("alias")?;
    let aliases = ["64:ff9b::a9fe:a9fe", "fd00:ec2::254"];
    let real = world.enter(|| {
        ip("-6 address add 64:ff9b::a9fe:a9fe/128 dev lo nodad")?;
        let listen = |at| TcpListener::bind((at, 80)).context(at);
        let listeners: Result<Vec<_>> = aliases.into_iter().map(listen).collect();
        listeners
    })?;
    let connected = |listener: &TcpListener| -> Result<bool> {
        listener.set_nonblocking(true)?;
        Ok(listener.accept().is_ok())
    };
    for (address, listener) in aliases.iter().zip(&real) {
        // It takes the connection and never answers.
        let address = (*address).to_owned();
        std::thread::scope(|scope| -> Result<()> {
            let dialled = scope.spawn(|| dial(&world, 1001, "plain", &address));
            let (stream, _) = listener.accept()?;
            drop(stream);
            drop(dialled.join());
            Ok(())
        })?;
    }
    let policy = format!("{POLICY}\n[endpoints]\naws-imds = \"enforce\"");
    let _agent = world.agent().config(&policy).start()?;
    assert_eq!(dial(&world, 1000, "plain", aliases[0])?, "200");
    assert_eq!(dial(&world, 1001, "plain", aliases[0])?, "403");
    let said = dial(&world, 1000, "plain", aliases[1])?;
    assert!(said.starts_with('4') || said.starts_with("errno"), "{said}");
    for (address, listener) in aliases.iter().zip(&real) {
        assert!(!connected(listener)?, "{address}");
    }
    Ok(())
}

/// A metadata address of the link, as some clouds have it: it is configured, for nobody ships it.
const OF_THE_LINK: &str = r#"
    [[endpoint]]
    name = "of-the-link"
    cloud = "azure"
    address = ["[fe80::a9fe:a9fe]:80"]
"#;

/// Dials the address of the link by an interface, and asks; then sends it a datagram.
const BY_INTERFACE: &str = r#"
to = ("fe80::a9fe:a9fe", 80, 0, socket.if_nametoindex("tw-link"))
s = connect(to, family=socket.AF_INET6)
s.sendall(head().replace(b"169.254.169.254", b"[fe80::a9fe:a9fe]"))
datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
try: sent = datagram.sendto(b"x", to)
except OSError as error: sent = "errno %d" % error.errno
say(answer(s), sent)
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_address_of_the_link_is_guarded_whatever_interface_it_is_dialled_by() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("link-local")?;
    let real = world.enter(|| {
        ip("link add tw-link type veth peer name tw-end")?;
        ip("link set tw-end up")?;
        ip("link set tw-link up")?;
        ip("-6 address add fe80::a9fe:a9fe/64 dev tw-link nodad")?;
        let scope = if_nametoindex("tw-link")?;
        let at = SocketAddrV6::new("fe80::a9fe:a9fe".parse()?, 80, 0, scope);
        Ok(TcpListener::bind(at)?)
    })?;
    let (billing, nobody) = (
        world.workload("billing"),
        world.workload("nobody").uid(1001),
    );
    std::thread::scope(|scope| -> Result<()> {
        let asked = scope.spawn(|| super::python(&nobody, BY_INTERFACE, &[]));
        drop(real.accept()?);
        let said = asked.join().expect("it panics where we would")?;
        assert_eq!(said, "closed 1\n", "without the guard");
        Ok(())
    })?;
    real.set_nonblocking(true)?;
    let _agent = world
        .agent()
        .config(&format!("{POLICY}{OF_THE_LINK}"))
        .start()?;
    assert_eq!(
        super::python(&billing, BY_INTERFACE, &[])?,
        "200 errno 13\n"
    );
    assert_eq!(super::python(&nobody, BY_INTERFACE, &[])?, "403 errno 13\n");
    assert!(real.accept().is_err(), "the real one was reached");
    Ok(())
}
