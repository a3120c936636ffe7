//! Running test binaries, with cargo-nextest where it is there and `cargo test` elsewhere, and counting what they say.
//!
//! Suites are the `[[test]]` entries of `tests/Cargo.toml`; a suite belongs to the tier that its name begins with.

use super::tally::Tally;
use crate::{process, setup, workspace};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Suites that run in the kernel tier.
pub(crate) const KERNEL: &[&str] = &["kernel", "security", "attribution", "journey"];

/// Everything outside `tests/`, and the harness's own unit tests.
pub(crate) fn unit() -> Result<Tally> {
    let mut tally = run(
        &["--workspace", "--exclude", "imds-guard-tests"],
        Ignored::Without,
        false,
    )?;
    tally.add(&run(
        &["-p", "imds-guard-tests", "--lib"],
        Ignored::Without,
        false,
    )?);
    // nextest doesn't run documentation's examples.
    tally.add(&counted(&mut process::command(
        "cargo",
        &["test", "--locked", "-q", "-p", "imds-guard-core", "--doc"],
    )?)?);
    Ok(tally)
}

/// The suites of a tier that needs nothing.
pub(crate) fn unprivileged(prefix: &str) -> Result<Tally> {
    named(&[prefix], &[], Ignored::Without, false)
}

/// The suites of a tier whose tests are `#[ignore]`d in a plain `cargo test`, one test at a time.
pub(crate) fn privileged(prefixes: &[&str], full: bool) -> Result<Tally> {
    privileged_but(prefixes, &[], full)
}

/// The same without some suites.
pub(crate) fn privileged_but(prefixes: &[&str], without: &[&str], full: bool) -> Result<Tally> {
    named(prefixes, without, Ignored::With, full)
}

/// The kernel tier: its suites, and those of the agent's own tests that need a kernel.
pub(crate) fn kernel(full: bool) -> Result<Tally> {
    let mut tally = privileged(KERNEL, full)?;
    tally.add(&run(&["-p", "imds-guard"], Ignored::Alone, full)?);
    Ok(tally)
}

fn named(prefixes: &[&str], without: &[&str], ignored: Ignored, full: bool) -> Result<Tally> {
    let manifest = workspace::root().join("tests/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).context("tests/Cargo.toml")?;
    let suites: Vec<&str> = declared(&manifest)
        .filter(|name| prefixes.iter().any(|p| name.starts_with(p)) && !without.contains(name))
        .collect();
    if suites.is_empty() {
        return Ok(Tally::default());
    }
    let mut selection = vec!["-p", "imds-guard-tests"];
    for suite in suites {
        selection.extend(["--test", suite]);
    }
    run(&selection, ignored, full)
}

/// The names under `[[test]]`.
fn declared(manifest: &str) -> impl Iterator<Item = &str> {
    manifest.split("[[test]]").skip(1).filter_map(|entry| {
        let line = entry.lines().find(|line| line.starts_with("name"))?;
        line.split('"').nth(1)
    })
}

/// What to do with tests that are `#[ignore]`d.
#[derive(Clone, Copy)]
enum Ignored {
    Without,
    With,
    Alone,
}

fn run(selection: &[&str], ignored: Ignored, full: bool) -> Result<Tally> {
    let mut command = if setup::nextest().is_some() {
        nextest(selection, ignored)?
    } else {
        libtest(selection, ignored)?
    };
    if full {
        command.env("IMDS_GUARD_FULL", "1");
    }
    counted(&mut command)
}

fn nextest(selection: &[&str], ignored: Ignored) -> Result<Command> {
    let mut command = process::command(
        "cargo",
        &[
            "nextest",
            "run",
            "--locked",
            "--no-fail-fast",
            "--no-tests=pass",
            "--status-level=all",
        ],
    )?;
    command.args(selection);
    match ignored {
        Ignored::Without => &mut command,
        Ignored::With => command.args(["--run-ignored", "all", "--test-threads=1"]),
        Ignored::Alone => command.args(["--run-ignored", "only", "--test-threads=1"]),
    };
    Ok(command)
}

fn libtest(selection: &[&str], ignored: Ignored) -> Result<Command> {
    let mut command = process::command("cargo", &["test", "--locked", "--no-fail-fast"])?;
    command.args(selection);
    match ignored {
        Ignored::Without => &mut command,
        Ignored::With => command.args(["--", "--include-ignored", "--test-threads=1"]),
        Ignored::Alone => command.args(["--lib", "--bins", "--", "--ignored", "--test-threads=1"]),
    };
    Ok(command)
}

/// Run a test runner, pass its output on, and count. A runner that fails without a failed test (it didn't compile, it died)
/// is a failure all the same.
pub(crate) fn counted(command: &mut Command) -> Result<Tally> {
    println!("  $ {}", process::shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not start cargo")?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut tally = std::thread::scope(|scope| {
        let errors = scope.spawn(|| err.map(pass_on).unwrap_or_default());
        let mut tally = out.map(pass_on).unwrap_or_default();
        tally.add(&errors.join().unwrap_or_else(|_| Tally::failure()));
        tally
    });
    if !child.wait()?.success() && tally.failed == 0 {
        tally.add(&Tally::failure());
    }
    Ok(tally)
}

fn pass_on(stream: impl std::io::Read) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("  {line}");
        tally.read(&line);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_in_the_manifest() {
        let manifest = "[lib]\nname = \"x\"\n[[test]]\nname = \"kernel\"\npath = \"a.rs\"\n\n[[test]]\npath = \"b.rs\"\nname = \"sdk\"\n";
        assert_eq!(declared(manifest).collect::<Vec<_>>(), ["kernel", "sdk"]);
    }

    #[test]
    fn a_runner_that_dies_silently_is_a_failure() {
        let tally = counted(&mut Command::new("false")).unwrap();
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
