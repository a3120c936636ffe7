//! Who is slow and who hangs: a reload that takes longer than the watchdog waits is none of the latter, and a loop that does nothing is
//! replaced, though the process's other threads go on.

use std::time::{Duration, Instant};

use imds_guard_tests::{World, require};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine::Machine;
use crate::{GUARD, POLICY, PROXY, VAULT};

/// Shorter than the unit's, for the test to be so, too.
const WATCHDOG: Duration = Duration::from_secs(4);

fn watched(world: &World) -> Machine {
    require!(Root, Cgroup2, Bpf, Agent);
    let unit = format!("[Service]\nWatchdogSec={}\n", WATCHDOG.as_secs());
    let more = [(
        "etc/systemd/system/imds-guard.service.d/watchdog.conf",
        unit.as_str(),
    )];
    let machine = Machine::boot_with(world, POLICY, &more).expect("a machine");
    let start = ["systemctl", "start", GUARD, PROXY];
    machine.must(&start).expect("started");
    assert_eq!(machine.ask("billing", VAULT).expect("curl").0, "200");
    machine
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_reload_that_takes_longer_than_the_watchdog_waits_is_not_killed() {
    let world = World::new("slow-reload").unwrap();
    let machine = watched(&world);
    let guard = machine.main_pid(GUARD).unwrap();
    machine.slow_nft(3).unwrap();
    // Other endpoints are enforced: netfilter's rules change, which takes three runs of nft.
    let other = format!("{POLICY}\n[endpoints]\nazure-wireserver = \"observe\"\n");
    machine.configure(&other).unwrap();
    let began = Instant::now();
    machine.must(&["systemctl", "reload", GUARD]).unwrap();
    machine.wait_journal(GUARD, "policy reloaded").unwrap();
    let deadline = began + Duration::from_secs(60);
    while machine.property(GUARD, "ActiveState").unwrap() != "active" {
        assert!(Instant::now() < deadline, "{}", machine.journal(GUARD));
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = began.elapsed();
    machine.slow_nft(0).unwrap();
    assert!(
        took > WATCHDOG + Duration::from_secs(2),
        "it was not slow: {took:?}"
    );
    assert_eq!(
        machine.main_pid(GUARD).unwrap(),
        guard,
        "{}",
        machine.journal(GUARD)
    );
    assert_eq!(machine.property(GUARD, "NRestarts").unwrap(), "0");
    assert_eq!(machine.ask("billing", VAULT).unwrap().0, "200");
    assert_eq!(machine.ask("web", VAULT).unwrap().0, "403");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_loop_that_hangs_while_other_threads_go_on_is_replaced() {
    let world = World::new("loop-hangs").unwrap();
    let azure = world.azure().unwrap();
    let machine = watched(&world);
    let guard = machine.main_pid(GUARD).unwrap();
    let main = Pid::from_raw(machine.outer_pid(&guard).unwrap());
    // The main thread alone: the lease is renewed still, so that who dials waits.
    ptrace::seize(main, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(main).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| machine.ask("billing", VAULT).unwrap().0);
        loop {
            match waitpid(main, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::Signaled(_, signal, _) => break assert_eq!(signal, Signal::SIGKILL),
                WaitStatus::Exited(..) => panic!("it has ended by itself"),
                _ => {}
            }
        }
        machine.wait_active(GUARD, &guard).unwrap();
        assert_eq!(waits.join().unwrap(), "200");
    });
    assert!(
        machine.journal(GUARD).to_lowercase().contains("watchdog"),
        "{}",
        machine.journal(GUARD)
    );
    assert_eq!(machine.ask("web", VAULT).unwrap().0, "403");
    assert!(azure.received().is_empty());
}

/// A unit that asks when it is started, for systemd-run needs a bus.
fn asks(named: &str) -> (String, String) {
    let target = VAULT.replace('%', "%%");
    let unit = format!(
        "[Service]\nType=oneshot\nUser=nobody\nStandardOutput=truncate:/run/{named}.said\n\
         ExecStart=curl -s -m 8 -o /dev/null -w %%{{http_code}} -H \"Metadata: true\" \"http://169.254.169.254{target}\"\n"
    );
    (format!("etc/systemd/system/{named}.service"), unit)
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn without_d_bus_it_starts_and_serves() {
    let world = World::new("no-dbus").unwrap();
    require!(Root, Cgroup2, Bpf, Agent);
    let units = [asks("billing"), asks("web")];
    let units = units
        .each_ref()
        .map(|(path, text)| (path.as_str(), text.as_str()));
    let machine = Machine::boot_with(&world, POLICY, &units).unwrap();
    let gets = |unit: &str| {
        machine.must(&["systemctl", "start", unit]).unwrap();
        machine
            .must(&["cat", &format!("/run/{unit}.said")])
            .unwrap()
    };
    machine
        .must(&["systemctl", "stop", "dbus.socket", "dbus.service"])
        .unwrap();
    machine.must(&["systemctl", "start", GUARD, PROXY]).unwrap();
    for _ in 0..2 {
        assert_eq!(
            (gets("billing").as_str(), gets("web").as_str()),
            ("200", "403")
        );
        let proxy = machine.main_pid(PROXY).unwrap();
        machine.must(&["systemctl", "restart", GUARD]).unwrap();
        machine.wait_active(PROXY, &proxy).unwrap();
    }
    assert_ne!(
        machine.property("dbus.service", "ActiveState").unwrap(),
        "active"
    );
}
