//! `cargo xtask test systems`: each Debian that the package is for, as a whole machine with that Debian's own kernel. Inside, the
//! package's life by dpkg, and then, with the package installed, container engines, units and a VRF: one boot for both.
//!
//! `IMDS_GUARD_VM=bookworm,…` takes some of the machines, `IMDS_GUARD_CHOSEN="SUITE TEST,…"` tests whose names begin so.

use super::kernel::Arch;
use super::matrix::Entry;
use super::system::{Ready, System};
use super::verdict::Verdict;
use super::{boot::Ended, guest, programs};
use crate::test::Tally;
use crate::{dist, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Beside what every such system has. Recommended packages aren't installed, so each is named.
const PACKAGES: [&str; 9] = [
    "podman",
    "netavark",
    "crun",
    "slirp4netns",
    "uidmap",
    "iptables",
    "dbus-user-session",
    "libpam-systemd",
    "passt",
];
/// The suites whose package we make, the slower machine first.
const SYSTEMS: [&str; 2] = ["trixie", "bookworm"];
/// What runs in each, in this order.
const SUITES: [&str; 2] = ["systems_dpkg", "systems_runtimes"];
/// A machine that isn't done then never will be.
const LIMIT: Duration = Duration::from_secs(3600);
/// Seconds for one test. Each takes a minute or two of a processor, and on a busy host a machine has a fifth of one.
const TEST_LIMIT: u32 = 1200;

/// How the tests of each kind begin: a kind of which none ran has failed.
const ALL: [&str; 5] = [
    "systems_dpkg from_installation_to_purge",
    "systems_runtimes rootful::",
    "systems_runtimes rootless::",
    "systems_runtimes units::",
    "systems_runtimes vrf::",
];

/// Why the tier can't run, when it can't.
pub(crate) fn cannot_run() -> Option<String> {
    let tools = [
        "qemu-system-x86_64",
        "mmdebstrap",
        "mkfs.ext4",
        "depmod",
        "cpio",
        "xz",
        "dpkg-deb",
    ];
    let missing = tools.iter().find(|tool| workspace::which(tool).is_none());
    missing.map(|tool| format!("needs {tool}: cargo xtask setup (Debian 12 or 13)"))
}

/// Run the tier: all machines at once, each with one processor.
pub(crate) fn run() -> Result<Tally> {
    let started = Instant::now();
    let only = listed("IMDS_GUARD_VM");
    let chosen = listed("IMDS_GUARD_CHOSEN");
    let payload = payload(&chosen)?;
    let mut machines = Vec::new();
    for suite in SYSTEMS {
        if only.is_empty() || only.iter().any(|name| name == suite) {
            machines.push((suite, system(suite, &payload).prepare()?));
        }
    }
    println!("  put together in {:.0} s", started.elapsed().as_secs_f32());
    let expected: Vec<&str> = match &chosen[..] {
        [] => ALL.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let expected = &expected;
        let running: Vec<_> = machines
            .iter()
            .map(|(suite, ready)| scope.spawn(move || judge(suite, ready, expected)))
            .collect();
        for machine in running {
            tally.add(&machine.join().unwrap_or_else(|_| Tally::failure()));
        }
    });
    Ok(tally)
}

fn listed(variable: &str) -> Vec<String> {
    let told = std::env::var(variable).unwrap_or_default();
    let names = told.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn system<'a>(suite: &'a str, payload: &'a Path) -> System<'a> {
    System {
        name: suite,
        suite,
        packages: &PACKAGES,
        payload,
        memory: 2048,
        processors: 1,
        limit: LIMIT,
    }
}

/// Boot it, and say what it said.
fn judge(suite: &str, ready: &Ready<'_>, expected: &[&str]) -> Tally {
    match ready.run() {
        Ok(ended) => {
            let verdict = Verdict::read(&ended.report, expected);
            // In one piece: another machine may be telling its own.
            println!("{}", told(suite, ready, &verdict, &ended));
            verdict.tally()
        }
        Err(error) => {
            println!("  {suite}: {error:#}");
            Tally::failure()
        }
    }
}

fn told(suite: &str, ready: &Ready<'_>, verdict: &Verdict, ended: &Ended) -> String {
    let said = verdict
        .said
        .iter()
        .map(|line| format!("  {suite}: {line}\n"));
    let passed = verdict.slow.iter().map(|(name, took)| {
        let (seconds, rest) = (took / 100, took % 100);
        format!("  {suite}: passed {name} ({seconds}.{rest:02} s)\n")
    });
    let phases = SUITES.map(|name| format!("{name} {} s", verdict.took(name)));
    let how = match (verdict.ended, ended.late) {
        (true, _) => String::new(),
        (false, true) => format!("; it ran out of time: see {}", ended.console.display()),
        (false, false) => format!("; it died: see {}", ended.console.display()),
    };
    format!(
        "{}{}  {suite}: Linux {}: {} in {:.0} s, {:.0} s of a processor (up after {} s, {}){how}",
        said.collect::<String>(),
        passed.collect::<String>(),
        ready.kernel.release,
        verdict.tally(),
        ended.took.as_secs_f32(),
        ended.processor.as_secs_f32(),
        verdict.booted / 100,
        phases.join(", "),
    )
}

/// The suites, what they start, both packages, a busybox for containers.
fn payload(chosen: &[String]) -> Result<PathBuf> {
    let top = workspace::target().join("vm/payloads/systems");
    let _of_the_last_run = fs::remove_dir_all(&top);
    let entry = Entry {
        name: "systems",
        // Of no kernel: the same for all.
        suite: "",
        arch: Arch::Amd64,
        suites: &SUITES,
        programs: &["probe"],
        own: false,
        lacks: &[],
    };
    programs::lay_out(&entry, &top)?;
    fs::write(top.join("test.sh"), include_str!("run.sh"))?;
    fs::write(top.join("limit"), format!("{TEST_LIMIT}\n"))?;
    fs::write(top.join("left-out"), "")?;
    let lines = chosen.iter().map(|begins| format!("{begins}\n"));
    fs::write(top.join("chosen"), lines.collect::<String>())?;
    for revision in [1, 2] {
        let package = top.join(format!("imds-guard-{revision}.deb"));
        let made = dist::of_pair(revision)?;
        fs::copy(&made, package).with_context(|| made.display().to_string())?;
    }
    fs::copy(guest::busybox(Arch::Amd64)?, top.join("busybox")).context("busybox")?;
    super::executable(&top.join("busybox"))?;
    Ok(top)
}
