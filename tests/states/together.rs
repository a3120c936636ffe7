//! Two agents at once, and an agent and its removal.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use imds_guard_tests::{World, binary};

use super::{Gets, asks, billing, config, neighbour, soon, world};

/// The program with these arguments, to its end: exit code, and what it said.
pub(super) fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    run_by(world, &[], arguments)
}

/// The same, started by that command.
pub(super) fn run_by(world: &World, by: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = program(world, by, arguments);
    let output = world.enter(|| Ok(command.output()?)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

fn program(world: &World, by: &[&str], arguments: &[&str]) -> Command {
    let program = world
        .show(&binary("imds-guard").unwrap(), "imds-guard")
        .unwrap();
    let cgroup = world.cgroup_below("second").unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
        .arg(cgroup)
        .args(by)
        .arg(program)
        .args(arguments)
        .env_remove("NOTIFY_SOCKET");
    command
}

/// The arguments of an agent of this world, with its run directory.
pub(super) fn agents(world: &World, run_dir: &str, port: &str) -> Vec<String> {
    let at = |name: &str| world.directory().join(name).display().to_string();
    let (file, state, pins) = (at("etc/imds-guard.toml"), at("state"), at("bpf/imds-guard"));
    let root = world.cgroup().display().to_string();
    let arguments = [
        "run",
        "--config",
        &file,
        "--state-dir",
        &state,
        "--run-dir",
        run_dir,
        "--pin-dir",
        &pins,
        "--cgroup-root",
        &root,
        "--proxy-user",
        "nobody",
        "--port",
        port,
        "--audit",
        &at("second.jsonl"),
    ];
    arguments.map(str::to_owned).to_vec()
}

pub(super) fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let world = world("two");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let at = |name: &str| world.directory().join(name).display().to_string();
    let second = |run_dir: &str, port: &str| run(&world, &strs(&agents(&world, run_dir, port)));
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

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn of_two_that_start_at_once_one_serves_and_the_other_says_so() {
    let world = world("at-once");
    let azure = world.azure().unwrap();
    // Guarded from the first moment.
    drop(world.agent().config(&config("enforce")).start().unwrap());
    let other = world.directory().join("other");
    std::fs::create_dir(&other).unwrap();
    // The same directories; and others, but the same pins.
    for (run_dir, port) in [("run", "8788"), ("other", "8799")] {
        let run_dir = world.directory().join(run_dir).display().to_string();
        let ours = world.directory().join("run").display().to_string();
        for _ in 0..3 {
            let begin = |run_dir: &str, port: &str| {
                let mut command = program(&world, &[], &strs(&agents(&world, run_dir, port)));
                command.stderr(Stdio::piped());
                Begun(world.enter(move || Ok(command.spawn()?)).unwrap())
            };
            let mut both = [begin(&ours, "8788"), begin(&run_dir, port)];
            let ended =
                |both: &mut [Begun; 2]| both.each_mut().map(|b| b.0.try_wait().unwrap().is_some());
            soon(
                Duration::from_secs(20),
                || "one gives way".into(),
                || ended(&mut both) != [false; 2],
            );
            soon(
                Duration::from_secs(20),
                || "one serves".into(),
                || asks(&billing(&world)) == Gets::Served,
            );
            assert_eq!(asks(&neighbour(&world)), Gets::Denied);
            let ended = ended(&mut both);
            assert_ne!(ended, [true; 2], "both gave way");
            let [a, b] = both;
            let (mut gone, stays) = if ended[0] { (a, b) } else { (b, a) };
            assert_eq!(gone.0.wait().unwrap().code(), Some(1));
            let mut said = String::new();
            gone.0
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            assert!(said.contains("imds-guard runs with"), "{said}");
            drop(stays);
            soon(
                Duration::from_secs(5),
                || "refused".into(),
                || asks(&billing(&world)) == Gets::Refused,
            );
        }
    }
    assert!(azure.received().is_empty());
}

/// A started one; killed when dropped.
pub(super) struct Begun(pub(super) Child);

impl Drop for Begun {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_a_service_manager_or_with_one_that_is_gone_it_serves_all_the_same() {
    let world = world("alone");
    let azure = world.azure().unwrap();
    // Guarded from the first moment.
    drop(world.agent().config(&config("enforce")).start().unwrap());
    let run_dir = world.directory().join("run").display().to_string();
    for manager in [None, Some("/nowhere/notify"), Some("@nobody")] {
        let mut command = program(&world, &[], &strs(&agents(&world, &run_dir, "8788")));
        command.stderr(Stdio::null()).env("WATCHDOG_USEC", "100000");
        command.envs(manager.map(|socket| ("NOTIFY_SOCKET", socket)));
        let agent = Begun(world.enter(move || Ok(command.spawn()?)).unwrap());
        soon(
            Duration::from_secs(20),
            || format!("{manager:?}"),
            || asks(&billing(&world)) == Gets::Served,
        );
        assert_eq!(asks(&neighbour(&world)), Gets::Denied, "{manager:?}");
        drop(agent);
        soon(
            Duration::from_secs(5),
            || "refused".into(),
            || asks(&billing(&world)) == Gets::Refused,
        );
    }
    assert!(azure.received().is_empty());
}
