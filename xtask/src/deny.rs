//! Dependencies: what may be linked, under which licences, from where; advisories where their database can be reached.

use crate::{process, tool};
use anyhow::Result;

/// Check all; say so where advisories could not be looked up.
pub(crate) fn run() -> Result<()> {
    tool::ensure(tool::DENY)?;
    process::run(&mut process::command(
        "cargo",
        &[
            "deny",
            "--locked",
            "--config",
            ".deny.toml",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ],
    )?)?;
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
