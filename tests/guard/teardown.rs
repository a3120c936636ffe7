//! `teardown` under a guard that runs is refused: what it would leave is a guard that guards nothing and doesn't know.

use super::{policy, soon, status};
use imds_guard_tests::{World, binary, require};
use nix::sys::signal::Signal;
use std::process::{Command, Output};
use std::time::Duration;

fn teardown(world: &World, argument: &[&str]) -> Output {
    let program = world.show(&binary("imds-guard").unwrap(), "imds-guard");
    let mut command = Command::new(program.unwrap());
    let (pins, run) = (
        world.directory().join("bpf/imds-guard"),
        world.directory().join("run"),
    );
    command.arg("teardown").arg("--pin-dir").arg(pins);
    command.arg("--run-dir").arg(run).args(argument);
    world.enter(|| Ok(command.output()?)).unwrap()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn it_is_refused_while_the_guard_runs_unless_somebody_insists() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("teardown").unwrap();
    let mut agent = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
    let refused = teardown(&world, &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("stop it first") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert_eq!(status(&world), Some(200), "nothing was removed");
    // Stopped, it is no longer in the way; what it pinned refuses until then.
    agent.signal(Signal::SIGTERM).unwrap();
    agent.wait_end(Duration::from_secs(10)).unwrap();
    assert_eq!(status(&world), None);
    let done = teardown(&world, &[]);
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("removed: nothing guards"));
    // Who insists gets what it asks for.
    let _agent = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
    let forced = teardown(&world, &["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    assert_eq!(status(&world), None, "nobody listens at the address");
}
