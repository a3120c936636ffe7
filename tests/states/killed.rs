//! `kill -9` at each step of a start, under load: of the first, of one that takes over, of one that replaces another version's layout
//! ([`super::serving`] has what comes after). The real service is never reached where it is enforced, what connects get is
//! the documented errno, and the next start serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imds_guard_tests::{AgentProcess, World, require};

use super::steps::{
    Load, Step, log, nothing_slipped_through, of_each_kind, report, starting, taken,
};
use super::together::run;
use super::{Gets, asks, billing, config, neighbour, world};

/// A start whose steps are written down; killed at `step`.
fn started(world: &World, step: Option<&Step>) -> anyhow::Result<AgentProcess> {
    let before = starting(world, step);
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    world
        .agent()
        .config(&config("enforce"))
        .started_by(&before)
        .start()
}

/// The steps of a whole start.
fn steps(world: &World) -> Vec<Step> {
    let agent = started(world, None).unwrap();
    let steps = taken(&log(world));
    drop(agent);
    steps
}

/// Has a start killed at that step.
#[track_caller]
fn killed_at(world: &World, step: &Step) {
    match started(world, Some(step)) {
        // Starts differ by a few calls.
        Ok(agent) => drop(agent),
        Err(error) => assert!(
            format!("{error:#}").contains("SIGKILL"),
            "{step:?}: {error:#}"
        ),
    }
}

fn pins(world: &World) -> PathBuf {
    world.directory().join("bpf/imds-guard")
}

/// The commands and calls that a start was killed at, for the report; each has to be among them.
#[track_caller]
fn reached(kind: &str, steps: &[Step], each: &[&str]) {
    let mut kinds: Vec<&str> = steps.iter().map(|step| step.what.as_str()).collect();
    kinds.dedup();
    report(&format!(
        "{kind}: killed at {} steps, of {kinds:?}\n",
        steps.len()
    ));
    for what in each {
        assert!(kinds.contains(what), "{kind}: no {what} in {kinds:?}");
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_first_start_killed_at_any_step_leaves_what_teardown_takes_away_and_the_next_serves() {
    require!(Strace);
    let world = world("killed-first");
    let azure = world.azure().unwrap();
    let pins = pins(&world).display().to_string();
    let teardown = || run(&world, &["teardown", "--pin-dir", &pins]);
    let all = steps(&world);
    assert_eq!(teardown().0, Some(0));
    let chosen = of_each_kind(&all, false);
    for step in &chosen {
        killed_at(&world, step);
        let got = [asks(&billing(&world)), asks(&neighbour(&world))];
        // All of it is in force, or none for anybody: nobody is served, nobody is answered by nobody.
        assert!(
            got == [Gets::Untouched; 2] || got == [Gets::Refused; 2],
            "{step:?}: {got:?}"
        );
        let (code, said) = teardown();
        assert_eq!(code, Some(0), "{step:?}: {said}");
        assert_eq!(asks(&neighbour(&world)), Gets::Untouched, "{step:?}");
    }
    reached(
        "first",
        &chosen,
        &[
            "BPF_PROG_LOAD",
            "BPF_MAP_CREATE",
            "BPF_OBJ_PIN",
            "BPF_LINK_CREATE",
            "listen",
        ],
    );
    // Without a teardown, too.
    let last = chosen
        .iter()
        .rfind(|step| step.what == "BPF_LINK_CREATE")
        .unwrap();
    killed_at(&world, last);
    let asked = azure.received().len();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert_eq!(azure.received().len(), asked);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_that_takes_over_and_is_killed_at_any_step_leaves_refusal() {
    require!(Strace);
    let world = world("killed-again");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let loads = loads(&world);
    drop(agent);
    let chosen = of_each_kind(&steps(&world), true);
    for step in &chosen {
        killed_at(&world, step);
        for who in [billing(&world), neighbour(&world)] {
            assert_eq!(asks(&who), Gets::Refused, "{step:?}");
        }
    }
    reached(
        "taking over",
        &chosen,
        &[
            "BPF_PROG_LOAD",
            "BPF_LINK_UPDATE",
            "BPF_MAP_UPDATE_ELEM",
            "listen",
        ],
    );
    serves_again(&world, loads);
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_that_replaces_another_layout_and_is_killed_at_any_step_leaves_refusal() {
    require!(Strace);
    let world = world("killed-layout");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let loads = loads(&world);
    drop(agent);
    another_layout(&world);
    let chosen = of_each_kind(&steps(&world), false);
    for step in &chosen {
        another_layout(&world);
        killed_at(&world, step);
        for who in [billing(&world), neighbour(&world)] {
            assert_eq!(asks(&who), Gets::Refused, "{step:?}");
        }
        assert!(
            azure.received().is_empty(),
            "{step:?}: {:?}",
            azure.received()
        );
    }
    reached(
        "another layout",
        &chosen,
        &["BPF_MAP_CREATE", "BPF_OBJ_PIN", "BPF_LINK_CREATE", "unlink"],
    );
    serves_again(&world, loads);
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

pub(super) fn loads(world: &World) -> [Load; 2] {
    let loads = [
        Load::begin(world, &billing(world), "granted"),
        Load::begin(world, &neighbour(world), "other"),
    ];
    // Each counts from its first answer on.
    assert_eq!(asks(&billing(world)), Gets::Served);
    std::thread::sleep(Duration::from_secs(1));
    loads
}

#[track_caller]
pub(super) fn serves_again(world: &World, [granted, other]: [Load; 2]) {
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(world)), Gets::Served);
    assert_eq!(asks(&neighbour(world)), Gets::Denied);
    std::thread::sleep(Duration::from_millis(500));
    nothing_slipped_through(granted, other);
}

/// Makes what is in force another version's, and nothing of it ours. Whichever of the two is whole stays, for there must be no
/// moment without.
fn another_layout(world: &World) {
    let ours = pins(world).join(format!("layout-{}", imds_guard_ebpf::ABI_VERSION));
    let other = pins(world).join("layout-1");
    let links = |layout: &Path| fs::read_dir(layout.join("links")).map_or(0, Iterator::count);
    let done = world.enter(|| {
        // Its removal begins once ours is whole.
        if other.exists() && links(&other) >= links(&ours) {
            remove(&ours)?;
        } else {
            remove(&other)?;
            fs::rename(&ours, &other)?;
        }
        Ok(())
    });
    done.unwrap();
}

fn remove(tree: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
