//! `imds-guard reload --confirm-within`: without a confirmation the earlier policy comes back, whatever becomes of the guard
//! meanwhile; and what was not confirmed doesn't come into force again by itself.

use std::path::PathBuf;
use std::time::Duration;

use imds_guard_tests::{AgentProcess, World};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Gets, asks, billing, config, neighbour, soon, verb, world};

/// Long enough for a restart on a busy machine.
const LONG: &str = "60s";
const SOON: Duration = Duration::from_secs(20);

/// The grant is somebody else's now: who had it is locked out.
fn stricter() -> String {
    config("enforce").replace("unix:uid:1000", "unix:uid:1001")
}

fn write(world: &World, policy: &str) {
    std::fs::write(world.directory().join("etc/imds-guard.toml"), policy).unwrap();
}

/// What the verb says, and whether it was done.
fn ask(world: &World, arguments: &[&str]) -> (bool, String) {
    let run = world.directory().join("run");
    let output = verb(
        world,
        &[arguments, &["--run-dir", run.to_str().unwrap()]].concat(),
    );
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[track_caller]
fn tried_out(world: &World, policy: &str, within: &str) {
    write(world, policy);
    let (done, said) = ask(world, &["reload", "--confirm-within", within]);
    assert!(done && said.contains("imds-guard confirm"), "{said}");
}

fn status(world: &World) -> Value {
    let pins = world.directory().join("bpf/imds-guard");
    let arguments = ["status", "--json", "--pin-dir", pins.to_str().unwrap()];
    let (_, said) = ask(world, &arguments);
    serde_json::from_str(&said).expect(&said)
}

/// The turns that the audit file tells.
fn turns(agent: &AgentProcess) -> Vec<String> {
    let records = agent.audit().records().unwrap();
    let turns = records.iter().filter(|record| record["event"] == "trial");
    turns
        .map(|record| record["change"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn earlier_is_in_force(world: &World) {
    assert_eq!(asks(&billing(world)), Gets::Served);
    assert_eq!(asks(&neighbour(world)), Gets::Denied);
}

#[track_caller]
fn new_is_in_force(world: &World) {
    assert_eq!(asks(&billing(world)), Gets::Denied);
    assert_eq!(asks(&neighbour(world)), Gets::Served);
}

#[track_caller]
fn comes_back(world: &World, agent: &AgentProcess) {
    soon(
        SOON,
        || agent.log(),
        || asks(&billing(world)) == Gets::Served,
    );
    earlier_is_in_force(world);
    let told = status(world);
    assert!(told["guard"]["trial"]["went_back"].is_string(), "{told}");
    assert_eq!(turns(agent).last().unwrap(), "went_back");
}

fn file(world: &World) -> PathBuf {
    world.directory().join("state/trial")
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_policy_that_nobody_confirms_goes_back_by_itself_and_stays_back() {
    let world = world("unconfirmed");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    earlier_is_in_force(&world);
    tried_out(&world, &stricter(), "3s");
    new_is_in_force(&world);
    let told = status(&world);
    assert!(told["guard"]["trial"]["until"].is_string(), "{told}");
    comes_back(&world, &agent);
    let (done, said) = ask(&world, &["confirm"]);
    assert!(!done && said.contains("too late"), "{said}");
    // Whoever rotates logs doesn't bring it back, nor does a restart.
    agent.signal(Signal::SIGHUP).unwrap();
    soon(
        SOON,
        || agent.log(),
        || agent.log().contains("that nobody confirmed"),
    );
    earlier_is_in_force(&world);
    drop(agent);
    let agent = world.agent().config(&stricter()).start().unwrap();
    earlier_is_in_force(&world);
    assert!(status(&world)["guard"]["trial"]["went_back"].is_string());
    // But whoever asks for it does.
    let (done, said) = ask(&world, &["reload"]);
    assert!(done, "{said}");
    new_is_in_force(&world);
    assert!(status(&world)["guard"]["trial"].is_null() && !file(&world).exists());
    assert_eq!(turns(&agent), ["begun", "went_back", "left"]);
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_policy_that_is_confirmed_stays() {
    let world = world("confirmed");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let (done, said) = ask(&world, &["confirm"]);
    assert!(!done && said.contains("nothing waits"), "{said}");
    tried_out(&world, &stricter(), "5s");
    // Not by a reload without a word about it.
    let (done, said) = ask(&world, &["reload"]);
    assert!(!done && said.contains("on trial"), "{said}");
    let (done, said) = ask(&world, &["confirm"]);
    assert!(done && said.contains("confirmed"), "{said}");
    assert!(!file(&world).exists() && status(&world)["guard"]["trial"].is_null());
    std::thread::sleep(Duration::from_secs(6));
    new_is_in_force(&world);
    drop(agent);
    let agent = world.agent().config(&stricter()).start().unwrap();
    new_is_in_force(&world);
    assert_eq!(turns(&agent), ["begun", "confirmed"]);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_guard_that_is_killed_meanwhile_keeps_the_deadline_and_the_earlier_policy() {
    let world = world("trial-killed");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    tried_out(&world, &stricter(), "8s");
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    let agent = world.agent().config(&stricter()).start().unwrap();
    assert_eq!(
        turns(&agent).last().unwrap(),
        "continued",
        "{}",
        agent.log()
    );
    comes_back(&world, &agent);
    // One that was away when the time was over goes back at its start.
    let (done, said) = ask(&world, &["reload"]);
    assert!(done, "{said}");
    tried_out(&world, &config("enforce"), "2s");
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    std::thread::sleep(Duration::from_secs(2));
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    new_is_in_force(&world);
    assert_eq!(turns(&agent).last().unwrap(), "went_back");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn files_that_turn_bad_during_a_trial_bring_the_earlier_policy_at_the_next_start() {
    let world = world("trial-bad");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    write(&world, "no policy");
    let (done, said) = ask(&world, &["reload", "--confirm-within", LONG]);
    assert!(!done && said.contains("imds-guard.toml"), "{said}");
    assert!(!file(&world).exists());
    earlier_is_in_force(&world);
    tried_out(&world, &stricter(), LONG);
    drop(agent);
    let agent = world.agent().config("no policy").start().unwrap();
    earlier_is_in_force(&world);
    assert_eq!(turns(&agent).last().unwrap(), "went_back");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_damaged_trial_file_is_told_and_the_policy_of_the_files_is_in_force() {
    let world = world("trial-damaged");
    let azure = world.azure().unwrap();
    let mut agent = world.agent().config(&config("enforce")).start().unwrap();
    tried_out(&world, &stricter(), LONG);
    let text = std::fs::read_to_string(file(&world)).unwrap();
    let altered = text.replacen("uid:1000", "uid:1001", 1);
    assert_ne!(text, altered);
    for damaged in ["", &text[..text.len() / 2], &altered] {
        drop(agent);
        std::fs::write(file(&world), damaged).unwrap();
        agent = world.agent().config(&stricter()).start().unwrap();
        assert!(agent.log().contains("is damaged"), "{}", agent.log());
        assert_eq!(turns(&agent).last().unwrap(), "lost");
        new_is_in_force(&world);
        assert!(!file(&world).exists());
        assert!(file(&world).with_extension("damaged").exists());
    }
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_a_place_for_the_earlier_policy_nothing_is_tried_out() {
    let world = world("trial-full");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    // What is in the way of writing, as a full disk is.
    let aside = world.directory().join("state/trial.new");
    std::fs::create_dir(&aside).unwrap();
    write(&world, &stricter());
    let (done, said) = ask(&world, &["reload", "--confirm-within", LONG]);
    assert!(!done && said.contains("state"), "{said}");
    earlier_is_in_force(&world);
    assert_eq!(turns(&agent), Vec::<String>::new());
    std::fs::remove_dir(&aside).unwrap();
    tried_out(&world, &stricter(), LONG);
    new_is_in_force(&world);
    // Trying a third doesn't make the second the earlier one.
    tried_out(&world, &stricter().replace("1001", "1002"), "2s");
    comes_back(&world, &agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_but_root_reloads_or_confirms() {
    let world = world("trial-others");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    // Into the directory, and past the socket's mode: who it is is asked all the same.
    let socket = agent.run_directory().join("control.sock");
    let mode = |mode| {
        let all = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&socket, all).unwrap();
    };
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\ns.send(b'{{\"verb\":\"reload\"}}')\ns.shutdown(socket.SHUT_WR)\nprint(s.recv(1000))",
        socket.to_str().unwrap()
    );
    let ask = |uid| {
        let who = world.workload("asker").uid(uid).gid(uid);
        let python = std::path::Path::new("/usr/bin/python3");
        let output = who.run(python, &["-c", &script]).unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = ask(1001);
    assert!(said.contains("PermissionError"), "{said}");
    mode(0o666);
    let said = ask(1001);
    assert!(!said.contains("done"), "{said}");
    assert!(agent.log().contains("turned away"), "{}", agent.log());
    let said = ask(0);
    assert!(said.contains(r#""done":true"#), "{said}");
}
