//! Two agents at once, and an agent and its removal.

use std::process::Command;
use std::time::Duration;

use imds_guard_tests::{World, binary};

use super::{Gets, asks, billing, config, neighbour, world};

fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let program = world
        .show(&binary("imds-guard").unwrap(), "imds-guard")
        .unwrap();
    let cgroup = world.cgroup_below("second").unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
        .arg(cgroup)
        .arg(program)
        .args(arguments);
    let output = world.enter(|| Ok(command.output()?)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let world = world("two");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let at = |name: &str| world.directory().join(name).display().to_string();
    let (root, file) = (
        world.cgroup().display().to_string(),
        at("etc/imds-guard.toml"),
    );
    let second = |run_dir: &str, port: &str| {
        let arguments = [
            "run",
            "--config",
            &file,
            "--state-dir",
            &at("state"),
            "--run-dir",
            run_dir,
            "--pin-dir",
            &at("bpf/imds-guard"),
            "--cgroup-root",
            &root,
            "--proxy-user",
            "nobody",
            "--port",
            port,
        ];
        run(&world, &arguments)
    };
    // The same directories; and others, but the same pins.
    let (code, said) = second(&at("run"), "8788");
    assert_eq!(code, Some(1));
    assert!(said.contains("another imds-guard runs with"), "{said}");
    let other = at("other");
    std::fs::create_dir(&other).unwrap();
    let (code, said) = second(&other, "8799");
    assert_eq!(code, Some(1));
    assert!(said.contains("an imds-guard runs with"), "{said}");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(azure.received().is_empty());
    assert!(
        super::drifts(&agent).is_empty(),
        "the second changed something"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn teardown_is_refused_while_the_guard_runs() {
    let world = world("teardown");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let pins = world
        .directory()
        .join("bpf/imds-guard")
        .display()
        .to_string();
    let (code, said) = run(&world, &["teardown", "--pin-dir", &pins]);
    assert_eq!(code, Some(1));
    assert!(said.contains("stop it first"), "{said}");
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    drop(agent);
    assert_eq!(asks(&neighbour(&world)), Gets::Refused);
    assert!(azure.received().is_empty());
    let (code, said) = run(&world, &["teardown", "--pin-dir", &pins]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(asks(&neighbour(&world)), Gets::Untouched);
}
