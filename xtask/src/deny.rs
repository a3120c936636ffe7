//! Dependencies: what may be linked, under which licences, from where; advisories where their database can be reached.

use crate::{process, rust_clients, tool, workspace};
use anyhow::{Context, Result};

/// Check all; say so where advisories could not be looked up.
pub(crate) fn run() -> Result<()> {
    tool::ensure(tool::DENY)?;
    graph(&[], ".deny.toml")?;
    // What only tests run has rules of its own: nothing of it is shipped.
    let clients = rust_clients::manifest();
    let clients = clients.to_str().context("a path that isn't UTF-8")?;
    graph(
        &["--manifest-path", clients],
        "tests/clients/rust/deny.toml",
    )?;
    let mut advisories = process::command(
        "timeout",
        &[
            "120",
            "cargo",
            "deny",
            "--locked",
            "--config",
            ".deny.toml",
            "check",
            "advisories",
        ],
    )?;
    let output = advisories.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("  advisories: none apply");
    } else if text.contains("failed to fetch advisory database")
        || output.status.code() == Some(124)
    {
        println!("  advisories: NOT CHECKED, their database can't be reached from here");
    } else {
        anyhow::bail!("advisories:\n{text}");
    }
    Ok(())
}

/// Bans, licences and sources of one lock file.
fn graph(of: &[&str], rules: &str) -> Result<()> {
    let rules = workspace::root().join(rules);
    let mut deny = process::command("cargo", &["deny", "--locked"])?;
    deny.args(of).arg("--config").arg(rules).args([
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    process::run(&mut deny)
}
