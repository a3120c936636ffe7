//! What somebody with root's power takes away while the guard runs is noticed within a second, put back, and recorded; a connection
//! in that moment gets nothing that it should not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use imds_guard_tests::{AgentProcess, World, require};

use super::{Gets, asks, billing, config, drifts, neighbour, soon, world};

/// What the guard has to keep.
const NOTICED: Duration = Duration::from_secs(1);

fn shell(world: &World, script: &str) -> String {
    let output = world.enter(|| {
        let output = Command::new("sh").args(["-ec", script]).output()?;
        ensure!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    });
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

fn layout(world: &World) -> PathBuf {
    let pins = world.directory().join("bpf/imds-guard");
    shell(world, &format!("ls -d {}/layout-*", pins.display()))
        .trim()
        .into()
}

/// Waits for a record of this drift, made within a second.
#[track_caller]
fn noticed(agent: &AgentProcess, what: &str, change: &str) {
    let told = || format!("{what} {change}: {:?}\n{}", drifts(agent), agent.log());
    soon(NOTICED, told, || {
        let is = |record: &serde_json::Value| record["what"] == what && record["change"] == change;
        drifts(agent).iter().any(is)
    });
    let all = drifts(agent);
    assert!(
        all.iter().all(|record| record["failed"].is_null()),
        "{all:?}"
    );
    assert!(
        agent
            .log()
            .contains("somebody has changed what is in force")
    );
}

#[track_caller]
fn guarded(world: &World) {
    assert_eq!(asks(&billing(world)), Gets::Served);
    assert_eq!(asks(&neighbour(world)), Gets::Denied);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn each_pin_that_is_removed_is_put_back_and_nothing_is_detached_meanwhile() {
    let world = world("drift-pins");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let layout = layout(&world);
    let list = format!("cd {} && ls links/* maps/*", layout.display());
    let before = shell(&world, &list);
    assert!(before.lines().count() > 20, "{before}");
    shell(&world, &format!("rm -r {}", layout.display()));
    // Not detached, though the pins are gone: somebody holds the links.
    guarded(&world);
    noticed(&agent, "connect4", "unpinned");
    noticed(&agent, "RECORDS", "unpinned");
    soon(
        NOTICED,
        || "all pins are back".into(),
        || shell(&world, &format!("{list} 2>/dev/null || true")) == before,
    );
    guarded(&world);
    assert!(azure.received().is_empty());
    // And what is put back outlives the guard.
    drop(agent);
    assert_eq!(asks(&billing(&world)), Gets::Refused);
}

/// BPF_LINK_DETACH of what is pinned there, as `bpftool link detach` does it.
fn detach(world: &World, pin: &Path) -> Result<()> {
    world.enter(|| imds_guard::sys::bpf::detach_link(pin).context("BPF_LINK_DETACH"))
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn each_link_that_is_detached_is_attached_again() {
    let world = world("drift-detach");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let links = layout(&world).join("links");
    let names = shell(&world, &format!("ls {}", links.display()));
    let names: Vec<&str> = names.lines().filter(|name| !name.contains('-')).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        detach(&world, &links.join(name)).unwrap();
        noticed(&agent, name, "detached");
        guarded(&world);
    }
}

/// A connect4 program of somebody else's, attached at the same cgroup after ours.
fn stranger(world: &World) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(imds_guard::intercept::embedded())?;
    let program: &mut CgroupSockAddr = ebpf.program_mut("connect4").context("none")?.try_into()?;
    program.load()?;
    program.attach(File::open(world.cgroup())?, CgroupAttachMode::Single)?;
    Ok(ebpf)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_program_that_comes_to_run_after_ours_runs_before_it_within_a_second() {
    let world = world("drift-order");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let held = stranger(&world).unwrap();
    noticed(&agent, "connect4", "runs_after");
    guarded(&world);
    let told = drifts(&agent).len();
    // Two that fight for the last place don't spin.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(drifts(&agent).len(), told);
    drop(held);
    guarded(&world);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_endpoint_that_is_taken_out_of_the_kernels_table_is_put_back() {
    let world = world("drift-table");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let pin = layout(&world).join("maps/ENDPOINTS");
    world
        .enter(|| {
            let map = aya::maps::MapData::from_pin(&pin)?;
            let mut table = aya::maps::HashMap::<
                _,
                imds_guard_ebpf::EndpointKey,
                imds_guard_ebpf::Endpoint,
            >::try_from(aya::maps::Map::HashMap(map))?;
            let keys: Vec<_> = table.keys().collect::<Result<_, _>>()?;
            ensure!(!keys.is_empty(), "no endpoints");
            keys.iter().try_for_each(|key| Ok(table.remove(key)?))
        })
        .unwrap();
    noticed(&agent, "ENDPOINTS", "endpoints_changed");
    let asked = azure.received().len();
    guarded(&world);
    assert_eq!(azure.received().len(), asked);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_flushed_packet_filter_is_filled_again() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("drift-nft").unwrap();
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let tables = || shell(&world, "nft -s list ruleset | grep -v handle");
    let before = tables();
    assert!(
        before.contains("table netdev imds_guard") && before.contains("table inet imds_guard"),
        "{before}"
    );
    shell(&world, "nft flush ruleset");
    noticed(&agent, "frames by netfilter", "rules_changed");
    noticed(&agent, "guests", "rules_changed");
    for family in ["netdev", "inet", "bridge"] {
        assert!(
            tables().contains(&format!("table {family} imds_guard")),
            "{family}"
        );
    }
    // The uplink's other layer likewise.
    let links = layout(&world).join("links");
    shell(&world, &format!("rm {}/uplink-*", links.display()));
    noticed(&agent, "frames", "detached");
    shell(&world, &format!("ls {}/uplink-*", links.display()));
    guarded(&world);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nothing_drifts_by_itself() {
    let world = world("drift-none");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    guarded(&world);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(drifts(&agent), Vec::<serde_json::Value>::new());
}
