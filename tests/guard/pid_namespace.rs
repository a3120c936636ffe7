//! A guard in a pid namespace, as under systemd in a container: its programs find the number of each caller there by a walk that
//! they have nowhere else, and the verifier follows it nowhere else.

use super::{TOKEN, policy};
use anyhow::{Context as _, Result};
use imds_guard_tests::{AgentProcess, World, patience, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_a_pid_namespace_it_serves_who_is_in_there_and_refuses_who_is_not() {
    require!(Root, Cgroup2, Bpf);
    let world = World::new("pid-namespace").unwrap();
    let into = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let agent = world.agent().config(&policy(1001));
    let agent = agent.started_by(&[&["unshare"], &into[..]].concat());
    let mut agent = agent.start().unwrap();
    let guard = only_child(&agent).unwrap();
    assert_eq!(soon(&world, guard, 1001), Some(200));
    assert_eq!(soon(&world, guard, 1002), Some(403), "its twin");
    // Of one outside nobody there can say who it is: it has no number.
    let outside = world.workload("outside").uid(1001).gid(2002).get(TOKEN);
    assert_ne!(outside.ok().map(|answer| answer.status), Some(200));
    kill(
        Pid::from_raw(guard.try_into().expect("a pid")),
        Signal::SIGTERM,
    )
    .unwrap();
    agent.wait_end(patience(Duration::from_secs(5))).unwrap();
    let left = world.workload("left").uid(1001).gid(2002).get(TOKEN);
    assert!(left.is_err(), "what it leaves refuses: {left:?}");
}

/// The guard, which is the first process of its namespace.
fn only_child(agent: &AgentProcess) -> Result<u32> {
    let path = format!("/proc/{0}/task/{0}/children", agent.pid());
    let children = std::fs::read_to_string(path)?;
    children.trim().parse().context("one child")
}

/// What a user's process in the guard's pid namespace gets for a token; a first connect may come before the listener.
fn soon(world: &World, guard: u32, user: u32) -> Option<u16> {
    let inside = world.workload("inside").uid(user).gid(2002);
    let inside = inside.in_pid_namespace_of(guard);
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    loop {
        match inside.get(TOKEN) {
            Ok(answer) => return Some(answer.status),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => return None,
        }
    }
}
