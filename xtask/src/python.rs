//! The Python environment with the real SDKs, pinned, under target/. Owns `target/venv`; the machine's own Python stays as it is.

use crate::{lack::Lack, process, workspace};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// The interpreter inside the environment.
pub(crate) fn interpreter() -> PathBuf {
    workspace::target().join("venv/bin/python")
}

/// What is to be in the environment, exactly.
fn requirements() -> PathBuf {
    workspace::root().join("tests/clients/requirements.txt")
}

fn stamp() -> PathBuf {
    workspace::target().join("venv/requirements.installed")
}

/// Make the environment, or bring it up to date; nothing to do when the pinned list is the one that was installed.
pub(crate) fn ensure() -> Result<()> {
    let wanted = std::fs::read_to_string(requirements())
        .context("could not read the list of Python packages")?;
    if interpreter().is_file() && std::fs::read_to_string(stamp()).is_ok_and(|have| have == wanted)
    {
        println!("  python: target/venv is as pinned");
        return Ok(());
    }
    // Debian's interpreter by its own path: one from a version switcher may be of a user that a test doesn't run as.
    let python = ["/usr/bin/python3"]
        .iter()
        .find(|p| PathBuf::from(p).is_file())
        .copied();
    let python =
        python.ok_or_else(|| Lack::error("no python3", "  apt-get install python3-venv"))?;
    println!("  python: the clouds' libraries and tools into target/venv (about 40 s)");
    let venv = workspace::target().join("venv");
    process::run(process::command(python, &["-m", "venv", "--clear"])?.arg(&venv))?;
    install()?;
    std::fs::write(stamp(), wanted).context("could not write into target/venv")
}

fn install() -> Result<()> {
    let pip = interpreter();
    let pip = pip.to_str().context("the work tree's path isn't UTF-8")?;
    let mut command = process::command(
        pip,
        &[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "-r",
        ],
    )?;
    process::run(command.arg(requirements())).map_err(|error| {
        Lack::error(
            format!("the pinned Python packages could not be installed: {error}"),
            format!(
                "  let pip reach a package index (PIP_INDEX_URL, or index-url in pip.conf), then again:\n  {}",
                process::shown(&command)
            ),
        )
    })
}
