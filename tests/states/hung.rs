//! A guard that is stopped (SIGSTOP): who has been attested is served still; once the guard has been silent for so long, connects
//! are refused in `enforce`, and pass in `audit` and `observe`. When it goes on, so does all else.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Gets, asks, billing, config, neighbour, soon, world};

/// The lease, and a second.
const LEASE: Duration = imds_guard::intercept::LEASE;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn callers_of_a_stopped_guard_are_refused_or_untouched_and_served_again_later() {
    for (mode, granted, other) in [
        ("enforce", Gets::Served, Gets::Denied),
        ("audit", Gets::Served, Gets::Untouched),
        ("observe", Gets::Untouched, Gets::Untouched),
    ] {
        let world = world("hung");
        let azure = world.azure().unwrap();
        let agent = world.agent().config(&config(mode)).start().unwrap();
        assert_eq!(asks(&billing(&world)), granted, "{mode}");
        assert_eq!(asks(&neighbour(&world)), other, "{mode}");
        let asked = azure.received().len();
        agent.signal(Signal::SIGSTOP).unwrap();
        std::thread::sleep(LEASE + Duration::from_millis(200));
        let away = if mode == "enforce" {
            Gets::Refused
        } else {
            Gets::Untouched
        };
        for who in [billing(&world), neighbour(&world)] {
            assert_eq!(asks(&who), away, "{mode}");
        }
        if mode == "enforce" {
            assert_eq!(azure.received().len(), asked);
        }
        agent.signal(Signal::SIGCONT).unwrap();
        soon(
            Duration::from_secs(2),
            || "served again".into(),
            || asks(&billing(&world)) == granted,
        );
        assert_eq!(asks(&neighbour(&world)), other, "{mode}");
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn callers_of_a_stopped_proxy_wait() {
    let world = world("hung-proxy");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let asked = azure.received().len();
    let proxy = Pid::from_raw(agent.children()[0].try_into().unwrap());
    kill(proxy, Signal::SIGSTOP).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| asks(&billing(&world)));
        let neither = scope.spawn(|| asks(&neighbour(&world)));
        // Longer than the guard's silence would be taken for: it lives, and its lease with it.
        std::thread::sleep(LEASE + Duration::from_secs(1));
        assert!(!waits.is_finished() && !neither.is_finished());
        kill(proxy, Signal::SIGCONT).unwrap();
        assert_eq!(waits.join().unwrap(), Gets::Served);
        assert_eq!(neither.join().unwrap(), Gets::Denied);
    });
    assert_eq!(azure.received().len(), asked);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn with_both_processes_stopped_it_is_as_with_the_guard_alone() {
    for (mode, granted, other) in [
        ("enforce", Gets::Served, Gets::Denied),
        ("audit", Gets::Served, Gets::Untouched),
        ("observe", Gets::Untouched, Gets::Untouched),
    ] {
        let world = world("hung-both");
        let _azure = world.azure().unwrap();
        let agent = world.agent().config(&config(mode)).start().unwrap();
        let proxy = Pid::from_raw(agent.children()[0].try_into().unwrap());
        agent.signal(Signal::SIGSTOP).unwrap();
        kill(proxy, Signal::SIGSTOP).unwrap();
        // Within the lease whoever is steered waits, and is answered by whoever goes on.
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| asks(&billing(&world)));
            std::thread::sleep(LEASE + Duration::from_millis(200));
            assert_eq!(waits.is_finished(), mode == "observe", "{mode}");
            let away = if mode == "enforce" {
                Gets::Refused
            } else {
                Gets::Untouched
            };
            for who in [billing(&world), neighbour(&world)] {
                assert_eq!(asks(&who), away, "{mode}");
            }
            kill(proxy, Signal::SIGCONT).unwrap();
            agent.signal(Signal::SIGCONT).unwrap();
            assert_eq!(waits.join().unwrap(), granted, "{mode}");
        });
        soon(
            Duration::from_secs(2),
            || "served again".into(),
            || asks(&billing(&world)) == granted,
        );
        assert_eq!(asks(&neighbour(&world)), other, "{mode}");
    }
}
