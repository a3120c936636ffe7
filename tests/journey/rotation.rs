//! The audit file is moved away under a running agent, as logrotate does, and opened anew at SIGHUP or SIGUSR1: by both processes, with
//! nothing lost and nothing said twice. The latter reads no policy.

use super::{MINTS, TOKEN, config, world};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

fn lines(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_rotated_audit_file_is_opened_anew_by_both_processes() {
    let world = world("rotation");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let file = world.directory().join("audit.jsonl");
    let old = world.directory().join("audit.jsonl.1");
    let caller = world.workload("billing").uid(1000).gid(3000);
    assert_eq!(caller.get(TOKEN).unwrap().status, 200);
    // A signature by the guard, an exchange by the proxy.
    agent.audit().wait(2).unwrap();
    std::fs::rename(&file, &old).unwrap();
    assert_eq!(caller.get(TOKEN).unwrap().status, 200);
    agent.signal(Signal::SIGHUP).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !agent.log().contains("policy reloaded epoch=2 ") {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    // The new epoch's token is signed again: a line of each process.
    assert_eq!(caller.get(TOKEN).unwrap().status, 200);
    let new = agent.audit().wait(2).unwrap();
    let events: Vec<_> = new.iter().map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["signed", "exchange"], "{new:?}");
    assert_eq!(new[1]["epoch"], 2);
    let before = lines(&old);
    assert_eq!(before.len(), 3, "{before:?}");
    assert!(before.iter().all(|line| line["epoch"] == 1), "{before:?}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn to_have_the_audit_file_opened_anew_applies_no_policy_that_is_being_edited() {
    let world = world("reopen");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let file = world.directory().join("audit.jsonl");
    let caller = world.workload("billing").uid(1000).gid(3000);
    let other = world.workload("other").uid(1001).gid(3001);
    assert_eq!(caller.get(TOKEN).unwrap().status, 200);
    agent.audit().wait(2).unwrap();
    let edited = config("enforce", MINTS).replace("unix:uid:1000", "unix:uid:1001");
    std::fs::write(world.directory().join("etc/imds-guard.toml"), edited).unwrap();
    std::fs::rename(&file, world.directory().join("audit.jsonl.1")).unwrap();
    agent.signal(Signal::SIGUSR1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !file.exists() {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(caller.get(TOKEN).unwrap().status, 200);
    assert_eq!(other.get(TOKEN).unwrap().status, 403);
    let new = agent.audit().wait(2).unwrap();
    assert!(new.iter().all(|line| line["epoch"] == 1), "{new:?}");
    assert!(!agent.log().contains("policy reloaded"), "{}", agent.log());
    // The twin: asked to, it reads it.
    agent.signal(Signal::SIGHUP).unwrap();
    while !agent.log().contains("policy reloaded epoch=2 ") {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(other.get(TOKEN).unwrap().status, 200);
}
