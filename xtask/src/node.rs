//! The clouds' libraries for JavaScript, pinned, under target/, where node and npm are there. Owns `target/node`.
//!
//! They are second real clients for the sdk tier. A machine without npm does without it, and the tier names the gap.

use crate::{process, workspace};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// What is to be installed, exactly, and the clients that use it: `npm ci` takes both files, modules are found beside it.
const FILES: [&str; 6] = [
    "package.json",
    "package-lock.json",
    "again.mjs",
    "azure_token.mjs",
    "aws_credentials.mjs",
    "gcp_token.mjs",
];

fn directory() -> PathBuf {
    workspace::target().join("node")
}

fn stamp() -> PathBuf {
    directory().join("package-lock.installed")
}

/// Why there is no JavaScript client here, if there is none.
pub(crate) fn lacks() -> Option<&'static str> {
    if workspace::which("node").is_none() || workspace::which("npm").is_none() {
        return Some("needs node 20 and npm");
    }
    (!stamp().is_file()).then_some("needs the clouds' libraries: cargo xtask setup")
}

/// Install what is pinned, where there is npm to do it.
pub(crate) fn ensure() -> Result<()> {
    if workspace::which("node").is_none() || workspace::which("npm").is_none() {
        println!("  node: not there; the sdk tier does without JavaScript");
        return Ok(());
    }
    let source = workspace::root().join("tests/clients/node");
    let directory = directory();
    std::fs::create_dir_all(&directory).context("could not create target/node")?;
    for file in FILES {
        std::fs::copy(source.join(file), directory.join(file))
            .with_context(|| format!("could not copy {file}"))?;
    }
    let wanted = std::fs::read_to_string(source.join("package-lock.json"))?;
    if std::fs::read_to_string(stamp()).is_ok_and(|have| have == wanted) {
        println!("  node: target/node is as pinned");
        return Ok(());
    }
    println!(
        "  node: @azure/identity, @aws-sdk/credential-providers, google-auth-library and gcp-metadata into target/node"
    );
    let mut npm = process::command("npm", &["ci", "--no-audit", "--no-fund", "--silent"])?;
    match process::run(npm.current_dir(&directory)) {
        Ok(()) => std::fs::write(stamp(), wanted).context("could not write into target/node"),
        Err(error) => {
            // The Python client is the one that everything rests on; `lacks` says so where this one is wanted.
            println!("  node: {error}; the sdk tier does without JavaScript");
            Ok(())
        }
    }
}
