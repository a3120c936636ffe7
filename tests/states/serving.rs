//! `kill -9` at each step of serving, under load: between accept and answer, in an attestation, a signature, a reload, and while a
//! listener is opened in a network namespace; of either process. As in [`super::killed`], the real service is never reached where it is enforced.

use std::fs;
use std::path::Path;
use std::time::Duration;

use imds_guard_tests::{AgentProcess, World, require};
use nix::sys::signal::Signal;

use super::killed::{loads, serves_again};
use super::steps::{Lurking, has_ended, thread};
use super::together::Begun;
use super::{Gets, asks, billing, config, neighbour, soon, world};

/// Whose step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Guard,
    /// The guard's thread that goes into network namespaces.
    Namespaces,
    Proxy,
}

/// What leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Asking,
    Reload,
    NewNamespace,
}

/// What is being done, whose nth call of which kind that is, and what leads to it.
type Step = (&'static str, Of, &'static str, usize, By);

/// Each step of serving.
const SERVING: [Step; 18] = [
    ("accepting", Of::Proxy, "accept4", 1, By::Asking),
    ("reading a request", Of::Proxy, "recvfrom", 1, By::Asking),
    ("asking the guard", Of::Proxy, "sendmsg", 1, By::Asking),
    ("hearing the guard", Of::Proxy, "recvmsg", 1, By::Asking),
    ("answering", Of::Proxy, "writev", 1, By::Asking),
    ("hearing the proxy", Of::Guard, "recvmsg", 1, By::Asking),
    ("attestation", Of::Guard, "pidfd_open", 1, By::Asking),
    (
        "attestation: its answer",
        Of::Guard,
        "sendmsg",
        1,
        By::Asking,
    ),
    ("signing: its record", Of::Guard, "write", 1, By::Asking),
    ("signing: its answer", Of::Guard, "sendmsg", 2, By::Asking),
    ("reload: reading", Of::Guard, "openat", 3, By::Reload),
    ("reload: netfilter", Of::Guard, "clone3", 1, By::Reload),
    (
        "reload: the new policy's file",
        Of::Guard,
        "memfd_create",
        1,
        By::Reload,
    ),
    (
        "reload: handing it over",
        Of::Guard,
        "sendmsg",
        1,
        By::Reload,
    ),
    (
        "a namespace: going there",
        Of::Namespaces,
        "setns",
        1,
        By::NewNamespace,
    ),
    (
        "a namespace: the port",
        Of::Namespaces,
        "bind",
        1,
        By::NewNamespace,
    ),
    (
        "a namespace: listening",
        Of::Namespaces,
        "listen",
        1,
        By::NewNamespace,
    ),
    (
        "a namespace: coming home",
        Of::Namespaces,
        "setns",
        2,
        By::NewNamespace,
    ),
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn serving_and_killed_at_any_step_it_leaves_refusal() {
    require!(Strace);
    let world = world("killed-serving");
    let azure = world.azure().unwrap();
    let mut agent = Some(world.agent().config(&config("enforce")).start().unwrap());
    let loads = loads(&world);
    for step in &SERVING {
        let serving = agent
            .take()
            .unwrap_or_else(|| world.agent().config(&config("enforce")).start().unwrap());
        agent = survived(&world, serving, "enforce", step);
    }
    drop(agent);
    serves_again(&world, loads);
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn where_nothing_is_enforced_whoever_connects_after_any_kill_is_untouched() {
    require!(Strace);
    for mode in ["audit", "observe"] {
        let world = world("killed-audit");
        let _azure = world.azure().unwrap();
        let touched = |by: By| mode == "audit" || by == By::Reload;
        for step in SERVING
            .iter()
            .filter(|step| touched(step.4) && step.1 != Of::Proxy)
        {
            let serving = world.agent().config(&config(mode)).start().unwrap();
            assert!(
                survived(&world, serving, mode, step).is_none(),
                "{mode} {step:?}"
            );
        }
    }
}

/// Kills at a step, and looks at what callers get then; the agent, where it goes on.
#[track_caller]
fn survived(world: &World, agent: AgentProcess, mode: &str, step: &Step) -> Option<AgentProcess> {
    let (what, of, ..) = *step;
    let (granted, other) = killed(world, &agent, mode, step);
    // Whoever was being answered gets its own answer or none.
    if mode == "enforce" {
        assert!(
            ![Gets::Untouched, Gets::Denied].contains(&granted),
            "{what}: {granted:?}"
        );
        assert!(
            ![Gets::Untouched, Gets::Served].contains(&other),
            "{what}: {other:?}"
        );
    }
    let (granted, other) = match (of, mode) {
        (Of::Proxy, _) => (Gets::Served, Gets::Denied),
        (_, "enforce") => (Gets::Refused, Gets::Refused),
        _ => (Gets::Untouched, Gets::Untouched),
    };
    // The proxy has a moment to finish what it was answering, and takes no more.
    soon(
        Duration::from_secs(10),
        || format!("{mode} {what}: then {granted:?}"),
        || asks(&billing(world)) == granted,
    );
    assert_eq!(asks(&neighbour(world)), other, "{mode} {what}");
    (of == Of::Proxy).then_some(agent)
}

/// Kills there; what both callers got who were asking then.
#[track_caller]
fn killed(world: &World, agent: &AgentProcess, mode: &str, step: &Step) -> (Gets, Gets) {
    let (what, of, call, nth, by) = *step;
    let pid = match of {
        Of::Proxy => agent.children()[0],
        Of::Guard | Of::Namespaces => agent.pid(),
    };
    let name = (of == Of::Namespaces).then_some("namespaces");
    let _lurking = Lurking::beside(thread(pid, name), call, nth);
    std::thread::scope(|scope| {
        let granted = scope.spawn(|| asks(&billing(world)));
        let other = scope.spawn(|| asks(&neighbour(world)));
        let _there = lead_to(world, agent, mode, by);
        soon(
            Duration::from_secs(20),
            || format!("{what}: not reached: {}", agent.log()),
            || has_ended(pid),
        );
        (granted.join().unwrap(), other.join().unwrap())
    })
}

/// Whoever has to stay until then.
fn lead_to(world: &World, agent: &AgentProcess, mode: &str, by: By) -> Option<Begun> {
    match by {
        By::Asking => None,
        By::Reload => {
            // Other endpoints are enforced, so that netfilter's rules change.
            let other = config(mode).replace(
                "[endpoints]\n",
                "[endpoints]\nazure-wireserver = \"observe\"\n",
            );
            fs::write(world.directory().join("etc/imds-guard.toml"), other).unwrap();
            agent.signal(Signal::SIGHUP).unwrap();
            None
        }
        // It is found there within some seconds, and stays until then.
        By::NewNamespace => {
            let who = neighbour(world).in_own_netns();
            let stays = who.spawn(Path::new("/bin/sleep"), &["30"]).unwrap();
            Some(Begun(stays))
        }
    }
}
