//! Tools from crates.io that are taken from PATH, or built into target/tools when a verb first needs them.

use crate::{process, workspace};
use anyhow::Result;
use std::time::Instant;

/// A cargo subcommand: its crate, the version that is built when there is none, and how long that takes.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    takes: &'static str,
}

/// Licences, bans, sources, advisories.
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    takes: "3 minutes",
};
/// libFuzzer's driver.
pub(crate) const FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    takes: "1 minute",
};

/// Find it, or build it.
pub(crate) fn ensure(tool: Tool) -> Result<()> {
    if let Some(found) = workspace::which(tool.name) {
        println!("  {}: {}", tool.name, found.display());
        return Ok(());
    }
    let started = Instant::now();
    println!(
        "  building {} {} (about {})",
        tool.name, tool.version, tool.takes
    );
    let mut cargo = process::command(
        "cargo",
        &[
            "install",
            "--locked",
            "--quiet",
            // Each runs for seconds: optimising it takes longer than it saves.
            "--debug",
            tool.name,
            "--version",
            tool.version,
            "--root",
        ],
    )?;
    let build = workspace::tools().join("build");
    process::run(
        cargo
            .arg(workspace::tools())
            .env("CARGO_TARGET_DIR", &build),
    )?;
    println!(
        "  {} built in {:.0} s",
        tool.name,
        started.elapsed().as_secs_f32()
    );
    std::fs::remove_dir_all(build)?;
    Ok(())
}
