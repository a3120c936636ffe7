//! What callers see of a restart, an upgrade, a crash, a hang, and of a stop: the listeners are in systemd's hands meanwhile, for as
//! long as somebody is to come back.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use imds_guard_tests::{World, scaled};

use crate::machine::{Machine, text};
use crate::{GUARD, POLICY, PROXY, VAULT, started};

/// Many callers, and what became of each of them in the end.
pub(crate) struct Load(Child);

impl Load {
    /// Begins, as a unit of that name.
    pub(crate) fn begin(
        machine: &Machine,
        unit: &str,
        threads: u32,
        options: &[&str],
    ) -> Result<Self> {
        let (name, threads) = (format!("--unit={unit}"), threads.to_string());
        let head = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--collect",
            "--pipe",
            &name,
        ];
        let tail = [
            "-p",
            "User=nobody",
            "/usr/bin/load",
            &threads,
            "/tmp/stop",
            VAULT,
        ];
        let mut command = machine.command(&[&head, options, &tail].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn()?))
    }

    /// What it counted, once it has been told to stop.
    pub(crate) fn tally(self) -> Result<BTreeMap<String, u64>> {
        let output = self.0.wait_with_output()?;
        let said = text(&output);
        ensure!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let one = |word: &str| {
            let (name, number) = word.split_once('=')?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        said.split(' ')
            .map(one)
            .collect::<Option<_>>()
            .context(said)
    }
}

pub(crate) fn stop(machine: &Machine) {
    machine.must(&["touch", "/tmp/stop"]).expect("touch");
}

/// Waits until somebody is served, from `since` on.
fn serving(machine: &Machine, since: Instant) -> Duration {
    loop {
        let (code, _) = machine.ask("billing", VAULT).expect("curl runs");
        if code == "200" {
            return since.elapsed();
        }
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "not served again"
        );
    }
}

/// Waits until systemd keeps so many descriptors.
#[track_caller]
fn kept(machine: &Machine, number: &str, seconds: u64) {
    let count = || {
        machine
            .property(GUARD, "NFileDescriptorStore")
            .expect("a number")
    };
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while count() != number {
        assert!(Instant::now() < deadline, "{} kept, not {number}", count());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn report(line: &str) {
    let _nobody_listens = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_hundred_restarts_under_load_refuse_nobody_and_leave_nobody_unguarded() {
    let world = World::new("restarts").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    machine.put("load").unwrap();
    assert_eq!(machine.ask("billing", VAULT).unwrap().0, "200");
    let loads = [
        Load::begin(&machine, "billing", 2, &[]).unwrap(),
        Load::begin(&machine, "web", 1, &[]).unwrap(),
        Load::begin(&machine, "elsewhere", 1, &["-p", "PrivateNetwork=yes"]).unwrap(),
    ];
    std::thread::sleep(Duration::from_secs(1));
    let restarts = scaled(100);
    for nth in 0..restarts {
        let (guard, proxy) = (
            machine.main_pid(GUARD).unwrap(),
            machine.main_pid(PROXY).unwrap(),
        );
        if nth % 5 == 4 {
            let kill = [
                "systemctl",
                "kill",
                "--signal=KILL",
                "--kill-who=main",
                GUARD,
            ];
            machine.must(&kill).unwrap();
            machine.wait_active(GUARD, &guard).unwrap();
        } else {
            machine.must(&["systemctl", "restart", GUARD]).unwrap();
        }
        machine.wait_active(PROXY, &proxy).unwrap();
        // Somebody is served in between.
        std::thread::sleep(Duration::from_millis(300));
    }
    stop(&machine);
    let [billing, web, elsewhere] = loads.map(|load| load.tally().unwrap());
    report(&format!(
        "{restarts} restarts: billing {billing:?}\nweb {web:?}\nelsewhere {elsewhere:?}\n"
    ));
    for tally in [&billing, &web, &elsewhere] {
        assert!(tally["begun"] > restarts, "no load: {tally:?}");
        assert_eq!(
            tally["refused"],
            0,
            "{tally:?}\n{}",
            machine.journal("imds-guard*")
        );
        assert_eq!(tally["failed"], 0, "{tally:?}");
        assert_eq!(tally["unguarded"], 0, "{tally:?}");
    }
    assert!(
        billing["served"] > 0 && billing["denied"] == 0,
        "{billing:?}"
    );
    assert!(web["denied"] > 0 && web["served"] == 0, "{web:?}");
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn killed_it_serves_again_soon() {
    let world = World::new("soon").unwrap();
    let machine = started(&world).unwrap();
    machine.put("load").unwrap();
    let mut took = vec![];
    for _ in 0..5 {
        let guard = machine.main_pid(GUARD).unwrap();
        let load = Load::begin(&machine, "billing", 1, &[]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let kill = [
            "systemctl",
            "kill",
            "--signal=KILL",
            "--kill-who=main",
            GUARD,
        ];
        machine.must(&kill).unwrap();
        machine.wait_active(GUARD, &guard).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        stop(&machine);
        let tally = load.tally().unwrap();
        assert_eq!(tally["refused"], 0, "{tally:?}");
        // Whoever dialled just after the kill waited for all of the restart.
        took.push(tally["slowest_ms"]);
        machine.must(&["rm", "/tmp/stop"]).unwrap();
    }
    report(&format!("from kill -9 to an answer: {took:?} ms\n"));
    assert!(took.iter().all(|ms| *ms < 5000), "{took:?} ms");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_stop_and_a_start_that_fails_let_the_listeners_go() {
    let world = World::new("let-go").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    let kept = |n| kept(&machine, n, 10);
    // On 127.0.0.1, on ::1, and the issuer's.
    kept("3");
    let refused = || {
        let url = "http://169.254.169.254/metadata/instance?api-version=2021-02-01";
        let unit = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--collect",
            "--pipe",
            "-p",
            "User=nobody",
        ];
        let curl = [
            "curl",
            "-s",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{errormsg} %{time_total}",
            url,
        ];
        let said = text(&machine.run(&[&unit[..], &curl[..]].concat()).unwrap());
        let (why, took) = said.rsplit_once(' ').unwrap();
        assert!(why.contains("onnect"), "{said}");
        assert!(took.parse::<f64>().unwrap() < 1.0, "it waited: {said}");
    };
    machine.configure("this is no policy").unwrap();
    let kill = [
        "systemctl",
        "kill",
        "--signal=KILL",
        "--kill-who=main",
        GUARD,
    ];
    machine.must(&kill).unwrap();
    kept("0");
    refused();
    machine.configure(POLICY).unwrap();
    serving(&machine, Instant::now());
    kept("3");
    machine.must(&["systemctl", "stop", GUARD]).unwrap();
    kept("0");
    refused();
    machine.must(&["systemctl", "start", GUARD, PROXY]).unwrap();
    assert_eq!(machine.ask("billing", VAULT).unwrap().0, "200");
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn who_hangs_is_killed_by_the_watchdog_and_serves_again() {
    let world = World::new("watchdog").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    for unit in [GUARD, PROXY] {
        let before = machine.main_pid(unit).unwrap();
        let stop = [
            "systemctl",
            "kill",
            "--signal=STOP",
            "--kill-who=main",
            unit,
        ];
        machine.must(&stop).unwrap();
        // The watchdog waits for half a minute.
        machine
            .wait_active_within(unit, &before, Duration::from_secs(60))
            .unwrap();
        assert!(
            machine.journal(unit).to_lowercase().contains("watchdog"),
            "{}",
            machine.journal(unit)
        );
        serving(&machine, Instant::now());
        assert_eq!(machine.ask("web", VAULT).unwrap().0, "403");
    }
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_listener_of_a_namespace_that_is_gone_is_let_go() {
    let world = World::new("gone").unwrap();
    let machine = started(&world).unwrap();
    machine
        .must(&[
            "systemd-run",
            "--quiet",
            "--unit=hermit",
            "-p",
            "PrivateNetwork=yes",
            "sleep",
            "300",
        ])
        .unwrap();
    let wait = |n, limit| kept(&machine, n, limit);
    wait("5", 10);
    machine.must(&["systemctl", "restart", GUARD]).unwrap();
    wait("5", 10);
    // Gone while the guard is away: what comes back is of nobody any more.
    let guard = machine.main_pid(GUARD).unwrap();
    let kill = [
        "systemctl",
        "kill",
        "--signal=KILL",
        "--kill-who=main",
        GUARD,
    ];
    machine.must(&["systemctl", "stop", "hermit"]).unwrap();
    machine.must(&kill).unwrap();
    machine.wait_active(GUARD, &guard).unwrap();
    wait("3", 15);
}
