//! Connections that were there before the guard: ended at its start, in every network namespace, where their endpoint is enforced;
//! left alone elsewhere; and never one of the proxy's own.

use std::time::Duration;

use imds_guard_tests::{AZURE_IMDS, Caller, World};
use nix::sys::signal::Signal;

use super::{TOKEN, billing, config, neighbour, soon, world};

fn open(world: &World, who: &imds_guard_tests::Workload<'_>) -> Caller {
    let mut caller = who.connect(AZURE_IMDS).unwrap();
    assert!(answers(&mut caller), "the real service, before anything");
    let _of = world;
    caller
}

fn answers(caller: &mut Caller) -> bool {
    let head = format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n");
    caller.send(head.as_bytes()).is_ok() && caller.response().is_ok()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn they_are_ended_at_the_start_also_in_other_namespaces() {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("older").unwrap();
    let azure = world.azure().unwrap();
    let container = world.container().unwrap();
    let mut here = open(&world, &billing(&world));
    let mut there = open(&world, &neighbour(&world).in_space(&container));
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let asked = azure.received().len();
    // Its end is told at once, not after the minutes that TCP waits for an acknowledgement.
    for caller in [&mut here, &mut there] {
        assert!(caller.rest().is_ok(), "it has ended");
    }
    assert_eq!(azure.received().len(), asked);
    soon(
        Duration::from_secs(2),
        || "it is told".into(),
        || agent.log().contains("older than the guard are ended"),
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn where_nothing_is_enforced_they_go_on_until_a_reload_enforces_it() {
    for mode in ["observe", "audit"] {
        let world = world("older-audit");
        let _azure = world.azure().unwrap();
        let mut kept = open(&world, &billing(&world));
        let agent = world.agent().config(&config(mode)).start().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(answers(&mut kept), "{mode}");
        let file = world.directory().join("etc/imds-guard.toml");
        std::fs::write(file, config("enforce")).unwrap();
        agent.signal(Signal::SIGHUP).unwrap();
        assert!(kept.rest().is_ok(), "{mode}: ended by the reload");
    }
}
