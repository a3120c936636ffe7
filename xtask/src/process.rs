//! Running other programs: say what runs, let its output through, turn a bad end into an error that names it.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// A command that runs at the top of the work tree and finds our own tools first.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(workspace::root())
        .env("PATH", workspace::path_with(&[])?)
        .stdin(Stdio::null());
    // Set by `cargo run` for us alone; a cargo below would take them for its own.
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_NAME",
        "CARGO_MANIFEST_PATH",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}

/// How a command reads in a message.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Say it, run it, and fail when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    // Beside the output, not in it: some verbs print JSON.
    eprintln!("  $ {}", shown(command));
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// What a quiet command prints, or None when it can't be run or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments)
        .ok()?
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
