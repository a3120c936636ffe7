//! Emulated machines: other kernels than this one, from Debian's archive, with nothing but an archive in memory.
//!
//! Owns `cargo xtask test vm`: kernels, programs and userland are put together, then each machine of the matrix boots, two at a
//! time, runs the suites of the kernel tier, and reports.

mod apt;
mod boot;
mod cross;
mod guest;
mod initramfs;
mod kernel;
mod matrix;
mod programs;
mod system;
pub(crate) mod systems;
mod userland;
mod verdict;

use crate::test::Tally;
use crate::workspace;
use anyhow::{Context, Result};
use boot::Boot;
pub(crate) use cross::Cross;
use kernel::Kernel;
use matrix::{Entry, LEFT_OUT, MATRIX, MODULES};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use verdict::Verdict;

/// Machines at once: each has one processor, and two cores are what we count on.
const AT_ONCE: usize = 2;
/// A machine that isn't done then never will be.
const MACHINE_LIMIT: Duration = Duration::from_secs(600);
/// The same with `--full`.
const FULL_LIMIT: Duration = Duration::from_secs(3600);
/// Seconds for one test; the slowest takes a third on an idle host.
const TEST_LIMIT: u32 = 120;
/// MiB: the archive lies in memory.
const MEMORY: u32 = 1536;

/// `cargo xtask kernels`: what tests with guests need, below `target/vm`.
pub(crate) fn fetch() -> Result<()> {
    guest::ensure()
}

/// Why the tier can't run, when it can't.
pub(crate) fn cannot_run() -> Option<String> {
    let tools = [
        "qemu-system-x86_64",
        "qemu-system-aarch64",
        "aarch64-linux-gnu-gcc",
        "mmdebstrap",
        "depmod",
        "cpio",
        "xz",
        "apt-get",
    ];
    let missing = tools.iter().find(|tool| workspace::which(tool).is_none());
    missing.map(|tool| format!("needs {tool}: cargo xtask setup (Debian 12 or 13)"))
}

/// Run the tier: what is chosen for every run, or all of it.
pub(crate) fn run(full: bool) -> Result<Tally> {
    let only = std::env::var("IMDS_GUARD_VM").unwrap_or_default();
    let wanted = |entry: &&Entry| only.is_empty() || only.split(',').any(|name| name == entry.name);
    let started = Instant::now();
    let mut machines = VecDeque::new();
    for entry in MATRIX.iter().filter(wanted) {
        machines.push_back(Machine::prepare(entry, full).with_context(|| entry.name.to_owned())?);
    }
    println!("  put together in {:.0} s", started.elapsed().as_secs_f32());
    for left in LEFT_OUT {
        println!("  left out: {}*: {}", left.begins, left.why);
    }
    for entry in MATRIX.iter().filter(wanted) {
        for left in entry.lacks {
            println!(
                "  left out of {}: {}*: {}",
                entry.name, left.begins, left.why
            );
        }
    }
    if !full {
        println!(
            "  of the rest, a choice on each kernel, by what kernels do differently; all of it: --full"
        );
    }
    let queue = Mutex::new(machines);
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let tallies = Mutex::new((Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(machine) = next() {
                    let (tally, line) = machine.judge();
                    let mut all = tallies.lock().unwrap_or_else(PoisonError::into_inner);
                    all.0.add(&tally);
                    all.1.push(line);
                }
            });
        }
    });
    let (tally, lines) = tallies.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("\n  kernels:");
    lines.iter().for_each(|line| println!("    {line}"));
    Ok(tally)
}

/// A machine that is ready to start.
struct Machine {
    name: &'static str,
    kernel: Kernel,
    directory: PathBuf,
    /// What runs, where that isn't everything.
    chosen: Vec<&'static str>,
    limit: Duration,
}

impl Machine {
    fn prepare(entry: &Entry, full: bool) -> Result<Self> {
        let kernel = Kernel::of(entry.suite, entry.arch)?;
        let directory = workspace::target().join("vm/machines").join(entry.name);
        let tree = directory.join("tree");
        let _of_the_last_run = fs::remove_dir_all(&directory);
        kernel.modules(&MODULES, &tree.join("modules"))?;
        let top = tree.join("t");
        fs::create_dir_all(&top)?;
        fs::write(tree.join("init"), include_str!("vm/init.sh"))?;
        executable(&tree.join("init"))?;
        fs::write(top.join("run.sh"), include_str!("vm/run.sh"))?;
        fs::write(top.join("limit"), format!("{TEST_LIMIT}\n"))?;
        let left_out = entry.left_out().map(|left| format!("{}\n", left.begins));
        fs::write(top.join("left-out"), left_out.collect::<String>())?;
        let chosen = entry.chosen(full);
        let lines = chosen.iter().map(|begins| format!("{begins}\n"));
        fs::write(top.join("chosen"), lines.collect::<String>())?;
        let own = directory.join("own.cpio");
        initramfs::archive(&tree, &own)?;
        let programs = programs::archive(entry, &directory)?;
        let userland = userland::archive(entry.arch)?;
        let whole = directory.join("initramfs");
        initramfs::join(&[&userland, &programs, &own], &whole)?;
        Ok(Self {
            name: entry.name,
            kernel,
            directory,
            chosen,
            limit: if full { FULL_LIMIT } else { MACHINE_LIMIT },
        })
    }

    /// Boot it, and say what it said.
    fn judge(&self) -> (Tally, String) {
        let initramfs = self.directory.join("initramfs");
        let boot = Boot {
            kernel: &self.kernel,
            initramfs: &initramfs,
            disks: &[],
            processors: 1,
            memory: MEMORY,
            limit: self.limit,
            logs: &self.directory,
        };
        let ended = match boot.run() {
            Ok(ended) => ended,
            Err(error) => return (Tally::failure(), format!("{}: {error:#}", self.name)),
        };
        let verdict = Verdict::read(&ended.report, &self.chosen);
        let tally = verdict.tally();
        let line = format!(
            "{:<11} {:<30} {tally} ({:.0} s){}",
            self.name,
            self.kernel.release,
            ended.took.as_secs_f32(),
            self.how_it_ended(&verdict, &ended)
        );
        self.tell(&verdict, &line);
        (tally, line)
    }

    fn how_it_ended(&self, verdict: &Verdict, ended: &boot::Ended) -> String {
        if verdict.ended {
            return String::new();
        }
        let how = if ended.late {
            "ran out of time"
        } else {
            "died"
        };
        format!("; it {how}: see {}", ended.console.display())
    }

    fn tell(&self, verdict: &Verdict, line: &str) {
        let said = verdict
            .said
            .iter()
            .map(|said| format!("  {}: {said}\n", self.name));
        let slow = verdict.slow.iter().take(3);
        let slow: Vec<String> = slow
            .map(|(name, took)| format!("{name} {}.{:02} s", took / 100, took % 100))
            .collect();
        // In one piece: another machine may be telling its own.
        println!(
            "{}  {line}\n  {}: slowest: {}",
            said.collect::<String>(),
            self.name,
            slow.join(", ")
        );
    }
}

fn executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(file, mode).with_context(|| file.display().to_string())
}
