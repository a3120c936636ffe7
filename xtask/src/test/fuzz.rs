//! The fuzz tier: every target of `agent/core/fuzz`, for a fixed time each. A target is one test: it passes when nothing crashed.

use super::tally::Tally;
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// Seconds per target: enough in CI to go through the corpus and beyond; longer with `--full`.
const SECONDS: u32 = 20;
const SECONDS_FULL: u32 = 600;

fn directory() -> PathBuf {
    workspace::root().join("agent/core/fuzz")
}

/// Why it can't run, when it can't.
pub(crate) fn cannot_run() -> Option<String> {
    if workspace::which("cargo-fuzz").is_none() {
        return Some("needs cargo-fuzz: cargo xtask setup --fuzz".into());
    }
    (!directory().join("Cargo.toml").is_file()).then(|| "there are no fuzz targets".into())
}

/// Run every target.
pub(crate) fn run(full: bool) -> Result<Tally> {
    let seconds = if full { SECONDS_FULL } else { SECONDS };
    let mut tally = Tally::default();
    for target in targets()? {
        let mut fuzz = cargo()?;
        fuzz.args(["fuzz", "run", "--fuzz-dir"])
            .arg(directory())
            .arg("--target-dir")
            .arg(workspace::target().join("fuzz"))
            .arg(&target);
        fuzz.args([
            "--",
            &format!("-max_total_time={seconds}"),
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        match process::run(&mut fuzz) {
            Ok(()) => tally.add(&Tally::pass()),
            Err(error) => {
                println!("  {target}: {error:#}");
                tally.add(&Tally::failure());
            }
        }
    }
    Ok(tally)
}

fn targets() -> Result<Vec<String>> {
    let folder = directory().join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Sanitizers are unstable options: a nightly takes them, and a release does when it is told to.
fn cargo() -> Result<Command> {
    if process::output("rustup", &["run", "nightly", "rustc", "--version"]).is_some() {
        let mut command = process::command("rustup", &["run", "nightly", "cargo"])?;
        command.env_remove("RUSTUP_TOOLCHAIN");
        return Ok(command);
    }
    let mut command = process::command("cargo", &[])?;
    command.env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}
