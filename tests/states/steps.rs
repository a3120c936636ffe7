//! Ends a process at a step of its own: strace(1) kills it where it enters a system call, the nth of its kind. So the program under
//! test needs to know nothing of it, and a step is what the kernel sees of one. Beside it the callers without end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use imds_guard_tests::{Workload, World, binary};

use super::{TOKEN, soon};

/// The nth call of one kind, and what it was for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    pub(super) call: String,
    pub(super) nth: usize,
    /// Of bpf(2), the command; else the call again.
    pub(super) what: String,
}

/// What a start does that others could see half done.
const CALLS: &str = "bpf,bind,listen,rename,unlink,rmdir,mkdir,sendto,clone3,setns";

/// Where strace writes.
pub(super) fn log(world: &World) -> PathBuf {
    world.directory().join("strace.log")
}

/// The command that starts what follows it and writes down its steps; it is killed at `step`.
pub(super) fn starting(world: &World, step: Option<&Step>) -> Vec<String> {
    let trace = format!("trace={CALLS}");
    let log = log(world).display().to_string();
    // -D: the program is the child, and strace the grandchild.
    let mut all = [
        "strace",
        "-D",
        "-q",
        "-s",
        "0",
        "-e",
        "signal=none",
        "-o",
        &log,
        "-e",
        &trace,
    ]
    .map(str::to_owned)
    .to_vec();
    if let Some(Step { call, nth, .. }) = step {
        all.extend(["-e".into(), format!("inject={call}:signal=KILL:when={nth}")]);
    }
    all.push("--".into());
    all
}

/// All steps that are written down, in their order.
pub(super) fn taken(log: &Path) -> Vec<Step> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let text = fs::read_to_string(log).unwrap();
    let one = |line: &str| {
        let (call, rest) = line.split_once('(')?;
        let nth = counts.entry(call.to_owned()).or_default();
        *nth += 1;
        let command = rest.split(',').next().filter(|_| call == "bpf");
        Some(Step {
            call: call.to_owned(),
            nth: *nth,
            what: command.unwrap_or(call).to_owned(),
        })
    };
    text.lines()
        .filter(|l| !l.starts_with(['+', '-']))
        .filter_map(one)
        .collect()
}

/// Of each kind of step the first and the last, and with `more` one in between.
pub(super) fn of_each_kind(steps: &[Step], more: bool) -> Vec<Step> {
    let mut kinds: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
    for step in steps {
        kinds.entry(&step.what).or_default().push(step);
    }
    let mut chosen: Vec<Step> = vec![];
    for all in kinds.values() {
        let middle = more.then_some(all.len() / 2);
        for at in [Some(0), middle, Some(all.len() - 1)].into_iter().flatten() {
            if !chosen.contains(all[at]) {
                chosen.push(all[at].clone());
            }
        }
    }
    chosen
}

/// Waits beside a running thread to kill its process at the nth `call` from now on.
pub(super) struct Lurking(Child);

impl Lurking {
    pub(super) fn beside(tid: u32, call: &str, nth: usize) -> Self {
        let (trace, inject) = (
            format!("trace={call}"),
            format!("inject={call}:signal=KILL:when={nth}"),
        );
        let process = Command::new("strace")
            .args([
                "-q",
                "-o",
                "/dev/null",
                "-e",
                "signal=none",
                "-e",
                &trace,
                "-e",
                &inject,
            ])
            .args(["-p", &tid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        soon(
            Duration::from_secs(10),
            || format!("strace is beside {tid}"),
            || {
                // Under load its step may have come already.
                let Ok(status) = fs::read_to_string(format!("/proc/{tid}/status")) else {
                    return true;
                };
                status.contains("State:\tZ")
                    || status.contains(&format!("TracerPid:\t{}\n", process.id()))
            },
        );
        Self(process)
    }
}

impl Drop for Lurking {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The thread of that name, or the main thread.
pub(super) fn thread(pid: u32, name: Option<&str>) -> u32 {
    let Some(name) = name else { return pid };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut found = threads.filter(|t| {
        fs::read_to_string(t.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    let thread = found.next().expect("a thread of that name");
    thread.file_name().to_string_lossy().parse().unwrap()
}

/// Whether a process has ended, reaped or not.
pub(super) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("Z", |(_, rest)| rest);
    state.starts_with(['Z', 'X'])
}

/// A caller that dials without end. Begun while it is answered.
pub(super) struct Load {
    process: Child,
    stop: PathBuf,
}

impl Load {
    pub(super) fn begin(world: &World, who: &Workload<'_>, name: &str) -> Self {
        let program = world.show(&binary("load").unwrap(), "load").unwrap();
        let stop = world.directory().join(format!("stop-{name}"));
        let process = who.spawn(&program, &["1", &stop.display().to_string(), TOKEN]);
        Self {
            process: process.unwrap(),
            stop,
        }
    }

    /// What became of all that it dialled.
    pub(super) fn tally(self) -> BTreeMap<String, u64> {
        fs::write(&self.stop, "").unwrap();
        let output = self.process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let one = |word: &str| {
            let (name, number) = word.split_once('=')?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        said.trim()
            .split(' ')
            .map(one)
            .collect::<Option<_>>()
            .expect("a tally")
    }
}

/// Under `enforce` nobody got anything that policy doesn't give, and whoever was refused was refused by the one errno.
#[track_caller]
pub(super) fn nothing_slipped_through(granted: Load, other: Load) {
    let (granted, other) = (granted.tally(), other.tally());
    for tally in [&granted, &other] {
        assert!(tally["begun"] > 0, "no load: {tally:?}");
        assert_eq!((tally["unguarded"], tally["failed"]), (0, 0), "{tally:?}");
    }
    assert!(
        granted["served"] > 0 && other["denied"] > 0,
        "{granted:?}\n{other:?}"
    );
    assert_eq!(other["served"], 0, "{other:?}");
    report(&format!("granted {granted:?}\nother {other:?}\n"));
}

/// For whoever runs the test with `--no-capture`.
pub(super) fn report(line: &str) {
    let _nobody_listens = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
