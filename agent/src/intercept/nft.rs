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
    process::{Command, Stdio},
};

/// The name of our table in each family.
pub const TABLE: &str = "imds_guard";

/// Where nft is installed; the environment's `PATH` has no say in what a process with our capabilities executes.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/usr/local/sbin/nft",
];

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
    let mut child = Command::new(program()?)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Run)?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
        // It ends before it has read all where it doesn't like what it reads: then it says so.
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(NftError::Run(error));
    }
    let output = child.wait_with_output().map_err(NftError::Run)?;
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
