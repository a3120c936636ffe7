//! `cargo xtask test runtimes`: container engines, units and a VRF, on a whole Debian with the agent installed.

use super::kernel::Arch;
use super::matrix::Entry;
use super::system::System;
use super::verdict::Verdict;
use super::{guest, programs};
use crate::test::Tally;
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beside what every such system has. Recommended packages aren't installed, so each is named.
const PACKAGES: [&str; 9] = [
    "podman",
    "netavark",
    "crun",
    "slirp4netns",
    "passt",
    "uidmap",
    "iptables",
    "dbus-user-session",
    "libpam-systemd",
];
const SUITE: &str = "trixie";
/// A machine that isn't done then never will be.
const LIMIT: Duration = Duration::from_secs(1800);
/// Seconds for one test; on a busy host the longest took more than 400.
const TEST_LIMIT: u32 = 600;

/// How the tests of each kind begin: a kind of which none ran has failed.
const ALL: [&str; 4] = [
    "runtimes rootful::",
    "runtimes rootless::",
    "runtimes units::",
    "runtimes vrf::",
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
    ];
    let missing = tools.iter().find(|tool| workspace::which(tool).is_none());
    missing.map(|tool| format!("needs {tool}: cargo xtask setup (Debian 12 or 13)"))
}

/// Run the tier.
pub(crate) fn run() -> Result<Tally> {
    let payload = payload()?;
    let system = System {
        name: "runtimes",
        suite: SUITE,
        packages: &PACKAGES,
        payload: &payload,
        memory: 2048,
        processors: 2,
        limit: LIMIT,
    };
    let ready = system.prepare()?;
    println!("  booting {SUITE} with Linux {}", ready.kernel.release);
    let ended = ready.run()?;
    let verdict = Verdict::read(&ended.report, &ALL);
    verdict.said.iter().for_each(|line| println!("  {line}"));
    let took: Vec<_> = verdict.slow.iter().collect();
    for (name, hundredths) in took {
        println!(
            "  passed: {name} ({}.{:02} s)",
            hundredths / 100,
            hundredths % 100
        );
    }
    let how = match (verdict.ended, ended.late) {
        (true, _) => "ended",
        (false, true) => "ran out of time",
        (false, false) => "died",
    };
    println!(
        "  the machine {how} after {:.0} s: {}",
        ended.took.as_secs_f32(),
        ended.console.display()
    );
    Ok(verdict.tally())
}

/// The suite, what it starts, the units, a busybox for containers.
fn payload() -> Result<PathBuf> {
    let top = workspace::target().join("vm/payloads/runtimes");
    let _of_the_last_run = fs::remove_dir_all(&top);
    let entry = Entry {
        name: "runtimes",
        suite: SUITE,
        arch: Arch::Amd64,
        suites: &["runtimes"],
        own: false,
        lacks: &[],
    };
    programs::lay_out(&entry, &top)?;
    fs::write(top.join("test.sh"), include_str!("run.sh"))?;
    fs::write(top.join("limit"), format!("{TEST_LIMIT}\n"))?;
    fs::write(top.join("left-out"), "")?;
    fs::copy(guest::busybox(Arch::Amd64)?, top.join("busybox")).context("busybox")?;
    super::executable(&top.join("busybox"))?;
    copy_units(&workspace::root().join("systemd"), &top.join("systemd"))?;
    Ok(top)
}

fn copy_units(from: &Path, to: &Path) -> Result<()> {
    let mut copy = crate::process::command("cp", &["-a"])?;
    crate::process::run(copy.arg(from).arg(to))
}
