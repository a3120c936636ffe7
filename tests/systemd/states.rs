//! The threat model's table of states, walked on a real systemd, in each mode: what a granted and an ungranted caller get in each state
//! is what its cell says. The table is the expectation; a row that this doesn't walk is named here.

use std::time::{Duration, Instant};

use imds_guard_tests::{UPSTREAM_TOKEN, World, require};

use crate::machine::{Machine, text};
use crate::restart::{Load, report, stop};
use crate::{EARLY, GUARD, POLICY, PROXY, VAULT};

const MANUAL: &str = include_str!("../../agent/docs/threat-model.md");

/// Rows whose tests are those that they name themselves: one can't be in such a state for as long as it takes to ask.
const NOT_WALKED: [&str; 8] = [
    "guard hung: its loop alone",
    "somebody undoes what is in force",
    "out of memory",
    "a disk is full",
    "beside others' programs at the same cgroup",
    "a policy on trial (`reload --confirm-within`)",
    "bypassed, with the guard there or gone: whom it names",
    "guard gone, its lease over: a lifeline at its endpoint",
];

/// What somebody gets in the end.
fn gets(machine: &Machine, unit: &str) -> String {
    let name = format!("--unit={unit}");
    let url = format!("http://169.254.169.254{VAULT}");
    let unit = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--collect",
        "--pipe",
        &name,
        "-p",
        "User=nobody",
    ];
    let curl = [
        "curl",
        "-s",
        "-m",
        "20",
        "-H",
        "Metadata: true",
        "-w",
        "\n%{http_code} %{exitcode}",
        &url,
    ];
    let said = text(
        &machine
            .run(&[&unit[..], &curl[..]].concat())
            .expect("curl runs"),
    );
    let (body, code) = said.rsplit_once('\n').unwrap_or(("", &said));
    let word = match code {
        _ if body.contains(UPSTREAM_TOKEN) => "untouched",
        "200 0" => "served",
        "403 0" => "denied",
        "000 7" => "refused",
        other => other,
    };
    word.to_owned()
}

/// The cells of a state: observe, audit (granted, not granted), enforce (granted, not granted).
fn row(state: &str) -> Vec<&'static str> {
    let mut rows = rows().filter(|row| row[0] == state);
    rows.next().expect("the threat model has such a state")
}

fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let (_, states) = MANUAL
        .split_once("## States")
        .expect("a chapter about states");
    let states = states.split("\n## ").next().expect("its end");
    let lines = states.lines().filter(|line| line.starts_with("| "));
    lines
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// What a cell says that one gets in the end: "waits, then served" is served.
fn word(cell: &str) -> &str {
    let first = cell.split(';').next().unwrap_or(cell);
    let last = first.rsplit_once("then ").map_or(first, |(_, then)| then);
    match last.split([',', ' ']).next() {
        Some("passed") => "untouched",
        Some(word) => word,
        None => last,
    }
}

struct Walk<'w> {
    machine: &'w Machine,
    /// Of `granted` and `other` in a row.
    columns: [usize; 2],
    walked: Vec<String>,
}

impl Walk<'_> {
    /// Both callers, at once: some wait.
    #[track_caller]
    fn look(&mut self, state: &str) {
        let began = Instant::now();
        let got = std::thread::scope(|scope| {
            let other = scope.spawn(|| gets(self.machine, "web"));
            [gets(self.machine, "billing"), other.join().expect("curl")]
        });
        let cells = row(state);
        let said = self.columns.map(|at| word(cells[at]).to_owned());
        assert_eq!(
            got,
            said,
            "{state}: {cells:?}\n{}",
            self.machine.journal("imds-guard*")
        );
        report(&format!(
            "{state}: {got:?} after {} ms\n",
            began.elapsed().as_millis()
        ));
        self.walked.push(state.to_owned());
    }

    fn signal(&self, unit: &str, signal: &str) {
        let signal = format!("--signal={signal}");
        self.must(&["systemctl", "kill", &signal, "--kill-who=main", unit]);
    }

    #[track_caller]
    fn must(&self, arguments: &[&str]) {
        self.machine.must(arguments).expect("done");
    }

    /// Waits until the guard and the proxy that come after these are there.
    fn after(&self, guard: &str, proxy: &str) {
        self.machine.wait_active(GUARD, guard).expect("a guard");
        self.machine.wait_active(PROXY, proxy).expect("a proxy");
    }

    fn pids(&self) -> [String; 2] {
        [GUARD, PROXY].map(|unit| self.machine.main_pid(unit).expect("a number"))
    }

    /// As if another version had made what is in force.
    fn another_layout(&self, number: u32) {
        let script = format!(
            "cd /sys/fs/bpf/imds-guard && mv layout-{} layout-{number}",
            imds_guard_ebpf::ABI_VERSION
        );
        self.must(&["sh", "-c", &script]);
    }

    fn before_it_serves(&mut self) {
        self.look("before the early unit, at boot");
        self.must(&["systemctl", "start", EARLY]);
        self.look("booting: after the early unit, before the guard");
        // It takes its time, in the middle of the start: whoever dials then waits.
        self.machine.slow_nft(2).expect("a slow nft");
        self.must(&["systemctl", "start", "--no-block", GUARD, PROXY]);
        self.machine
            .wait_journal(GUARD, "stands")
            .expect("in force");
        self.look("starting");
        self.machine.slow_nft(0).expect("a quick nft");
        self.after("", "");
        self.look("running");
    }

    fn reloads(&mut self, policy: &str) {
        let more = format!("{policy}azure-wireserver = \"observe\"\n");
        self.machine.configure(&more).expect("written");
        self.must(&["systemctl", "reload", GUARD]);
        self.look("reloading");
        self.machine
            .configure("this is no policy")
            .expect("written");
        self.must(&["systemctl", "reload", GUARD]);
        self.machine
            .wait_journal(GUARD, "the reload is refused")
            .expect("told");
        self.look("bad policy at reload");
        self.machine.configure(policy).expect("written");
        self.must(&["systemctl", "reload", GUARD]);
    }

    fn restarts(&mut self) {
        let [guard, proxy] = self.pids();
        self.must(&["systemctl", "restart", "--no-block", GUARD]);
        self.look("restarting");
        self.after(&guard, &proxy);
        for (state, number) in [
            ("upgrading", 1),
            ("rolled back", imds_guard_ebpf::ABI_VERSION + 1),
        ] {
            let [guard, proxy] = self.pids();
            self.another_layout(number);
            self.must(&["systemctl", "restart", GUARD]);
            self.after(&guard, &proxy);
            self.look(state);
        }
    }

    fn dies(&mut self) {
        let [guard, proxy] = self.pids();
        self.signal(GUARD, "KILL");
        self.look("guard crashed");
        self.after(&guard, &proxy);
        let [_, proxy] = self.pids();
        self.signal(PROXY, "KILL");
        self.look("proxy killed or hung");
        self.after("", &proxy);
        self.signal(GUARD, "STOP");
        std::thread::sleep(imds_guard::intercept::LEASE + Duration::from_millis(500));
        self.look("guard hung: stopped by SIGSTOP, after five seconds");
        self.signal(GUARD, "CONT");
        self.look("running");
    }

    fn stops(&mut self, policy: &str) {
        self.must(&["systemctl", "stop", GUARD, PROXY]);
        self.look("stopped");
        self.machine
            .configure("this is no policy")
            .expect("written");
        self.must(&["systemctl", "start", "--no-block", GUARD]);
        self.machine
            .wait_journal(GUARD, "this is no policy")
            .expect("told");
        self.look("bad policy at start");
        self.machine.configure(policy).expect("written");
        self.must(&["systemctl", "stop", GUARD, PROXY, EARLY]);
        self.must(&["imds-guard", "teardown"]);
        self.look("torn down");
    }
}

#[track_caller]
fn walk(mode: &str, columns: [usize; 2]) {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new(&format!("walk-{mode}")).expect("a world");
    let azure = world.azure().expect("the real service");
    let policy = format!("{POLICY}\n[endpoints]\nazure-imds = \"{mode}\"\n");
    let machine = Machine::boot(&world, &policy).expect("a machine");
    let mut walk = Walk {
        machine: &machine,
        columns,
        walked: vec![],
    };
    machine.put("load").expect("the callers without end");
    walk.before_it_serves();
    let asked = azure.received().len();
    let loads = ["billing-load", "web-load"]
        .map(|unit| Load::begin(&machine, unit, 1, &[]).expect("callers"));
    walk.reloads(&policy);
    walk.restarts();
    walk.dies();
    stop(&machine);
    let tallies = loads.map(|load| load.tally().expect("a tally"));
    report(&format!("{mode}: {tallies:?}\n"));
    if mode == "enforce" {
        // Neither is a unit with a grant.
        for tally in &tallies {
            assert_eq!(
                (tally["unguarded"], tally["failed"], tally["served"]),
                (0, 0, 0),
                "{tally:?}"
            );
        }
        assert_eq!(
            azure.received().len(),
            asked,
            "something reached the real service"
        );
    }
    walk.stops(&policy);
    every_row(&walk.walked);
}

/// Whether each row was walked, or is named as one that isn't.
#[track_caller]
fn every_row(walked: &[String]) {
    let unknown: Vec<_> = rows()
        .map(|row| row[0])
        .filter(|state| !walked.iter().any(|w| w == state) && !NOT_WALKED.contains(state))
        .collect();
    assert!(unknown.is_empty(), "not walked: {unknown:?}");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn each_state_in_observe_is_as_the_threat_model_says() {
    walk("observe", [1, 1]);
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn each_state_in_audit_is_as_the_threat_model_says() {
    walk("audit", [2, 3]);
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn each_state_in_enforce_is_as_the_threat_model_says() {
    walk("enforce", [4, 5]);
}
