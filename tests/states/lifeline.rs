//! `[[lifeline]]`: the configured executable in its unit reaches its endpoint while no guard lives, and at no other time; nobody else
//! does, and each use is told.

use std::time::Duration;

use imds_guard_tests::{AZURE_IMDS, Workload, World, binary, require};
use nix::sys::signal::Signal;

use super::{Gets, asks, config, soon, world};

const SOON: Duration = Duration::from_secs(30);
const UNIT: &str = "system.slice/waagent.service";
const WIRESERVER: &str = "168.63.129.16:80";

/// What a workload of a test runs, where the world shows it.
fn policy(world: &World, executable: &str) -> String {
    let at = world.directory().join("bin").join(executable);
    format!(
        "{}\n[[lifeline]]\nexecutable = {at:?}\nunit = \"waagent.service\"\nendpoint = \"azure-imds\"\n",
        config("enforce").replace("[host]", "azure-wireserver = \"enforce\"\n[host]")
    )
}

/// The platform's agent: root, in its unit.
fn platform(world: &World) -> Workload<'_> {
    world.workload("x").uid(0).gid(0).in_cgroup(UNIT)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn it_reaches_its_endpoint_while_no_guard_lives_and_is_told() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("lifeline").unwrap();
    let azure = world.azure().unwrap();
    world.show(&binary("probe").unwrap(), "probe").unwrap();
    platform(&world).cgroup().unwrap();
    let agent = world
        .agent()
        .config(&policy(&world, "probe"))
        .start()
        .unwrap();
    // Never while the guard serves, nor while its lease runs.
    assert_eq!(asks(&platform(&world)), Gets::Denied);
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    assert_eq!(asks(&platform(&world)), Gets::Refused);
    assert!(azure.received().is_empty());
    soon(SOON, String::new, || {
        asks(&platform(&world)) == Gets::Untouched
    });
    // The same executable elsewhere, whoever runs it; and another endpoint.
    let elsewhere = world.workload("x").uid(0).gid(0);
    assert_eq!(asks(&elsewhere), Gets::Refused);
    let below = platform(&world).in_cgroup(&format!("{UNIT}/below"));
    assert_eq!(asks(&below), Gets::Refused);
    let refused = platform(&world).connect(WIRESERVER).unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
    // Another executable there.
    let script = "import socket; socket.create_connection(('169.254.169.254', 80), 2)";
    let python = std::path::Path::new("/usr/bin/python3");
    let output = platform(&world).run(python, &["-c", script]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("ConnectionRefusedError"), "{said}");
    // The guard comes: what is open ends, the use is told, and it is over.
    let mut open = platform(&world).connect(AZURE_IMDS).unwrap();
    let agent = world
        .agent()
        .config(&policy(&world, "probe"))
        .start()
        .unwrap();
    soon(SOON, || agent.log(), || open.rest().is_ok());
    assert_eq!(asks(&platform(&world)), Gets::Denied);
    let told = || {
        let records = agent.audit().records().unwrap();
        records
            .iter()
            .filter(|r| r["event"] == "observed" && r["reason"] == "lifeline")
            .count()
    };
    soon(SOON, || agent.log(), || told() > 0);
    assert!(agent.log().contains("a lifeline was used"));
    let note = std::fs::read_to_string(agent.run_directory().join("status.json")).unwrap();
    let note: serde_json::Value = serde_json::from_str(&note).unwrap();
    assert!(note["lifelines_used"].as_u64().unwrap() > 0, "{note}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_executable_that_others_could_write_or_a_script_has_none() {
    let world = world("lifeline-custody");
    let azure = world.azure().unwrap();
    platform(&world).cgroup().unwrap();
    let file = world.directory().join("bin/agent");
    std::fs::copy(binary("probe").unwrap(), &file).unwrap();
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&file, mode).unwrap();
    };
    mode(0o775);
    let agent = world
        .agent()
        .config(&policy(&world, "agent"))
        .start()
        .unwrap();
    assert!(agent.log().contains("has no lifeline"), "{}", agent.log());
    let reload = |word: &str| {
        let before = agent.log().len();
        agent.signal(Signal::SIGHUP).unwrap();
        soon(
            SOON,
            || agent.log(),
            || agent.log()[before..].contains(word),
        );
    };
    // The twin: once it is root's alone, it has one.
    mode(0o755);
    reload("has its lifeline again");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    reload("is a script");
    assert!(azure.received().is_empty());
}
