//! nft(8), for what only netfilter sees: frames that leave by an interface (`uplink.rs`), and traffic of guests that
//! only passes through.
//!
//! Rules of ours stand in tables called [`TABLE`], one per family that needs one (`netdev`, `inet`, `bridge`, …), each
//! with one owner, who writes the whole table in one script: [`replacing`] puts the words in front that make it one
//! transaction, old rules out and new rules in, so that no moment is without either.
//! Must never flush or change a table of somebody else's.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use crate::{notify, sys::pidfd::PidFd};

/// The name of our table in each family.
pub const TABLE: &str = "imds_guard";

/// Where nft is installed; the environment's `PATH` has no say in what a process with our capabilities executes.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/usr/local/sbin/nft",
];

/// How long nft may take: milliseconds, and on a starved machine some seconds. The guard's loop waits for it.
const LIMIT: Duration = Duration::from_secs(10);

/// Why netfilter has not what it should have. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No program.
    #[error("nft is not installed: install the package nftables")]
    Missing,
    /// It can't be run.
    #[error("nft can't be run: {0}")]
    Run(#[source] io::Error),
    /// It refused the script.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// It didn't end, and was killed.
    #[error("nft has not ended within {} s and was killed", LIMIT.as_secs())]
    Late,
}

/// Runs `script` as one transaction, in the calling thread's network namespace: all of it is in force then, or nothing.
///
/// # Errors
/// [`NftError`]; what was in force before still is.
pub fn apply(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).map(drop)
}

/// `table FAMILY imds_guard { body }` in the place of whatever table of that name and family there is: for [`apply`],
/// where several may be joined into one transaction.
#[must_use]
pub fn replacing(family: &str, body: &str) -> String {
    format!(
        "{}table {family} {TABLE} {{\n{body}\n}}\n",
        removing(family)
    )
}

/// Removes our table of that family, whether there is one or not: for [`apply`].
#[must_use]
pub fn removing(family: &str) -> String {
    // `delete` fails where there is nothing, and `destroy` is newer than Debian 12's nft: so make it first.
    format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n")
}

/// Our table of that family as the kernel has it, without its counters: the same text as long as nobody changes it.
///
/// # Errors
/// [`NftError::Refused`] where there is none.
pub fn listing(family: &str) -> Result<String, NftError> {
    run(&["-s", "list", "table", family, TABLE], "")
}

/// The families in which a table of ours stands, in the calling thread's network namespace.
///
/// # Errors
/// [`NftError`].
pub fn families() -> Result<Vec<String>, NftError> {
    let tables = run(&["list", "tables"], "")?;
    let family = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let family = words.next()?;
        (words.next()? == TABLE).then(|| family.to_owned())
    };
    Ok(tables.lines().filter_map(family).collect())
}

/// All rules of all tables, as nft prints them, in the calling thread's network namespace.
///
/// # Errors
/// [`NftError`].
pub fn ruleset() -> Result<String, NftError> {
    run(&["list", "ruleset"], "")
}

/// Where nft is.
///
/// # Errors
/// [`NftError::Missing`].
pub fn program() -> Result<PathBuf, NftError> {
    let mut places = PLACES.iter().map(Path::new);
    let found = places.find(|path| path.exists());
    found.map(Path::to_owned).ok_or(NftError::Missing)
}

fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let child = Command::new(program()?)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Run)?;
    notify::alive();
    let output = within(LIMIT, child, input).map_err(NftError::Run)?;
    notify::alive();
    let output = output.ok_or(NftError::Late)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty());
    Err(NftError::Refused(match first {
        Some(line) => line.trim().to_owned(),
        None => output.status.to_string(),
    }))
}

/// Gives it `input` and takes what it says. `None`: it had not ended after so long, and has been killed.
fn within(limit: Duration, mut child: Child, input: &str) -> io::Result<Option<Output>> {
    let (ended, waits) = channel::<()>();
    let watch = |pidfd: PidFd| {
        let watch = move || {
            let late = waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                let _gone_already = pidfd.kill();
            }
            late
        };
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(watch)
    };
    let watching = PidFd::open(child.id())
        .map_err(io::Error::from)
        .and_then(watch);
    let watching = watching.inspect_err(|_| {
        // Nobody would end it.
        drop(child.kill());
        drop(child.wait());
    })?;
    let said = child
        .stdin
        .take()
        .map(|mut to| to.write_all(input.as_bytes()));
    let output = child.wait_with_output();
    drop(ended);
    let late = watching.join().unwrap_or(true);
    match said {
        // It ends before it has read all where it doesn't like what it reads: then it says so.
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok((!late).then_some(output?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_replaced_in_one_script() {
        assert_eq!(
            replacing("netdev", "chain a { }"),
            "table netdev imds_guard\ndelete table netdev imds_guard\ntable netdev imds_guard {\nchain a { }\n}\n"
        );
    }

    fn program_that(does: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", does]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn who_does_not_end_is_killed_and_who_is_slow_is_waited_for() {
        let began = std::time::Instant::now();
        let short = Duration::from_millis(200);
        assert!(
            within(short, program_that("exec sleep 60"), "x")
                .unwrap()
                .is_none()
        );
        assert!(began.elapsed() < Duration::from_secs(30));
        let slow = program_that("sleep 0.3; exec cat");
        let output = within(Duration::from_secs(60), slow, "said")
            .unwrap()
            .unwrap();
        assert_eq!(output.stdout, b"said");
    }

    #[test]
    #[ignore = "kernel: cargo xtask test kernel"]
    fn tables_come_as_a_whole_or_not_at_all() {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            apply(&replacing("inet", "chain a { }")).unwrap();
            apply(&replacing("inet", "chain b { }")).unwrap();
            assert_eq!(families().unwrap(), ["inet"]);
            let refused = apply(&format!(
                "{}table inet other {{ nonsense }}",
                removing("inet")
            ));
            assert!(matches!(refused, Err(NftError::Refused(_))), "{refused:?}");
            assert_eq!(families().unwrap(), ["inet"], "nothing of it was done");
            apply(&removing("inet")).unwrap();
            apply(&removing("inet")).unwrap();
            assert!(families().unwrap().is_empty());
        })
        .join()
        .unwrap();
    }
}
