//! The layers: in force, stopped, taken away, with strangers beside them.

use crate::Clinic;
use anyhow::{Context, Result};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use imds_guard_tests::{AZURE_IMDS, require};
use nix::sys::signal::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_running_guard_is_covered_a_killed_one_is_weak_a_torn_down_one_is_open() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-life").unwrap();
    assert_eq!(clinic.exit_code().unwrap(), Some(1), "never started");
    let agent = clinic.start().unwrap();
    let report = clinic.report().unwrap();
    assert_eq!(clinic.exit_code().unwrap(), Some(0), "{report:#}");
    let layers = report["layers"].as_array().unwrap();
    assert!(
        layers.iter().filter(|l| l["state"] == "ok").count() == layers.len() - 3,
        "{layers:#?}"
    );
    assert!(
        report["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .any(|e| { e["address"] == AZURE_IMDS && e["mode"] == "enforce" })
    );
    // SIGKILL: it has no say in what it leaves.
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    let findings = clinic.findings().unwrap();
    assert_eq!(
        (
            findings["guard"].0.as_str(),
            findings["listener"].0.as_str()
        ),
        ("weak", "weak")
    );
    assert_eq!(findings["layers"].0, "ok", "what is pinned stays");
    assert_eq!(clinic.exit_code().unwrap(), Some(4));
    let pins = clinic.pins();
    clinic
        .world
        .enter(|| Ok(imds_guard::intercept::teardown(&pins)?))
        .unwrap();
    assert_eq!(clinic.findings().unwrap()["layers"].0, "open");
    assert_eq!(clinic.exit_code().unwrap(), Some(1));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn each_link_that_is_taken_away_is_missed() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-links").unwrap();
    let agent = clinic.start().unwrap();
    let links = clinic
        .shell(&format!(
            "ls -d {}/layout-*/links/*",
            clinic.pins().display()
        ))
        .unwrap();
    assert!(links.lines().count() >= 5, "{links}");
    drop(agent);
    for link in links.lines() {
        // A start puts back what is missing.
        let agent = clinic.start().unwrap();
        assert_eq!(clinic.findings().unwrap()["layers"].0, "ok");
        // One that runs would put it back.
        agent.signal(Signal::SIGSTOP).unwrap();
        clinic.shell(&format!("rm {link}")).unwrap();
        let (state, subjects) = clinic.findings().unwrap().remove("layers").unwrap();
        assert_ne!(state, "ok", "{link}");
        let name = link.rsplit('/').next().unwrap();
        assert!(
            subjects.iter().any(|s| s.contains(name)),
            "{link}: {subjects:?}"
        );
        let code = if state == "open" { 1 } else { 4 };
        assert_eq!(clinic.exit_code().unwrap(), Some(code), "{link}");
        agent.signal(Signal::SIGCONT).unwrap();
    }
}

/// Our own `getpeername4` once more, loaded against maps of its own: somebody else's program.
fn stranger(at: &Path) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(imds_guard::intercept::embedded())?;
    let program: &mut CgroupSockAddr = ebpf
        .program_mut("getpeername4")
        .context("no such program")?
        .try_into()?;
    program.load()?;
    program.attach(File::open(at)?, CgroupAttachMode::Single)?;
    Ok(ebpf)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_program_attached_after_ours_is_a_weakness_and_one_before_is_none() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-foreign").unwrap();
    let below = clinic.world.cgroup_below("tenant").unwrap();
    let _agent = clinic.start().unwrap();
    clinic.changes(
        "foreign-programs",
        "weak",
        "getpeername4",
        || stranger(clinic.world.cgroup()),
        |ebpf| {
            drop(ebpf);
            Ok(())
        },
    );
    let before = clinic.findings().unwrap();
    let held = stranger(&below).unwrap();
    assert_eq!(
        clinic.findings().unwrap(),
        before,
        "a program below ours runs before it"
    );
    drop(held);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn another_program_in_the_place_of_ours_is_not_taken_for_ours() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-swap").unwrap();
    let agent = clinic.start().unwrap();
    assert_eq!(clinic.findings().unwrap()["programs"].0, "ok");
    agent.signal(Signal::SIGSTOP).unwrap();
    let link = clinic
        .shell(&format!(
            "ls {}/layout-*/links/connect4",
            clinic.pins().display()
        ))
        .unwrap();
    let link = Path::new(link.trim());
    let swapped = clinic.world.enter(|| {
        let mut ebpf = stranger(clinic.world.cgroup())?;
        let program: &mut CgroupSockAddr = ebpf
            .program_mut("getpeername4")
            .context("no such program")?
            .try_into()?;
        let id = program.attach(File::open(clinic.world.cgroup())?, CgroupAttachMode::Single)?;
        let attached: FdLink = program.take_link(id)?.try_into()?;
        std::fs::remove_file(link)?;
        attached.pin(link)?;
        Ok(ebpf)
    });
    drop(swapped.unwrap());
    let findings = clinic.findings().unwrap();
    assert_eq!(
        findings["layers"].0, "ok",
        "there is a link of that name, and its program runs"
    );
    let (state, subjects) = &findings["programs"];
    assert_eq!(state, "unknown");
    assert!(
        subjects.len() == 1 && subjects[0].starts_with("connect4"),
        "{subjects:?}"
    );
    assert_eq!(clinic.exit_code().unwrap(), Some(5));
    agent.signal(Signal::SIGCONT).unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_is_attached_elsewhere_does_not_guard_here() {
    require!(Root, Cgroup2, Bpf);
    let mut clinic = Clinic::new("doctor-place").unwrap();
    let _agent = clinic.start().unwrap();
    assert_eq!(clinic.findings().unwrap()["layers"].0, "ok");
    clinic.root = clinic.world.cgroup_below("elsewhere").unwrap();
    let (state, subjects) = clinic.findings().unwrap().remove("layers").unwrap();
    assert_eq!(state, "open");
    assert!(
        subjects.iter().any(|s| s.contains("another cgroup")),
        "{subjects:?}"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn connections_older_than_the_guard_are_found() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-older").unwrap();
    clinic
        .shell("ip address add 169.254.169.254/32 dev lo")
        .unwrap();
    let _service = clinic.world.azure().unwrap();
    // The way that would have worked: it was open before anybody looked. The guard's start has ended it.
    let mut older = clinic.world.workload("web").connect(AZURE_IMDS).unwrap();
    let agent = clinic.start().unwrap();
    older.rest().unwrap();
    assert_eq!(clinic.findings().unwrap()["connections"].0, "ok");
    // One that somebody opens who takes the programs away while the guard is.
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    let pins = clinic.pins().display().to_string();
    clinic
        .shell(&format!(
            "cd {pins}/layout-*/links && rm ahead4 connect4 egress"
        ))
        .unwrap();
    let older = clinic.world.workload("web").connect(AZURE_IMDS).unwrap();
    let (state, subjects) = clinic.findings().unwrap().remove("connections").unwrap();
    assert_eq!(state, "open", "nothing stops it");
    let us = format!("pid {}", older.pid());
    assert!(
        subjects
            .iter()
            .any(|s| s.contains(AZURE_IMDS) && s.contains(&us)),
        "{subjects:?}"
    );
    drop(older);
    // What is left is in TIME_WAIT: nobody asks over that.
    assert_eq!(clinic.findings().unwrap()["connections"].0, "ok");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_stranger_on_the_port_is_not_the_guard() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-stranger").unwrap();
    let agent = clinic.start().unwrap();
    assert_eq!(clinic.findings().unwrap()["listener"].0, "ok");
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    assert_eq!(
        clinic.findings().unwrap()["listener"],
        ("weak".into(), vec![])
    );
    let pins = clinic.pins();
    // The guard of the port refuses it while programs are in force.
    let taken = clinic.world.enter(|| {
        imds_guard::intercept::teardown(&pins)?;
        Ok(TcpListener::bind(("127.0.0.1", 8788))?)
    });
    let _taken = taken.unwrap();
    let (state, subjects) = clinic.findings().unwrap().remove("listener").unwrap();
    assert_eq!(state, "weak");
    assert!(
        subjects
            .iter()
            .any(|s| s.contains(&std::process::id().to_string())),
        "{subjects:?}"
    );
}
