//! `cargo xtask pins`: moves the real clients of the sdk tier to the newest versions. What somebody chose stands in `requirements.in`,
//! `package.json` and `tests/clients/rust/Cargo.toml`; what is pinned, with all that it needs, in the three lock files beside them.
//!
//! Never installs anything: `cargo xtask setup` does, and the sdk tier says whether they still do what they did.

use crate::{lack::Lack, process, python, rust_clients, workspace};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

fn clients() -> PathBuf {
    workspace::root().join("tests/clients")
}

/// Run the verb.
pub(crate) fn run() -> Result<()> {
    python_pins()?;
    node_pins()?;
    rust_pins()?;
    process::run(&mut process::command(
        "git",
        &["diff", "--stat", "--", "tests/clients"],
    )?)?;
    println!(
        "pins: now `cargo xtask setup` and `cargo xtask test sdk`, then look at the difference"
    );
    Ok(())
}

/// The resolver of the very interpreter that they are for; nothing is installed.
fn python_pins() -> Result<()> {
    let interpreter = python::interpreter();
    if !interpreter.is_file() {
        return Err(Lack::error("no Python environment", "  cargo xtask setup"));
    }
    let interpreter = interpreter.to_str().context("a path that isn't UTF-8")?;
    let report = workspace::target().join("pins.json");
    let arguments = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        "--ignore-installed",
        "--dry-run",
        "--report",
    ];
    let mut pip = process::command(interpreter, &arguments)?;
    pip.arg(&report)
        .arg("-r")
        .arg(clients().join("requirements.in"));
    process::run(&mut pip)?;
    let report = std::fs::read_to_string(&report).context("pip's report")?;
    let pinned = pinned(&serde_json::from_str(&report).context("pip's report")?)?;
    std::fs::write(clients().join("requirements.txt"), pinned).context("requirements.txt")
}

/// A line for each package, by name.
fn pinned(report: &Value) -> Result<String> {
    let packages = report["install"].as_array().context("no packages")?;
    let mut lines = packages
        .iter()
        .map(|package| {
            let name = package["metadata"]["name"].as_str().context("no name")?;
            let version = package["metadata"]["version"]
                .as_str()
                .context("no version")?;
            Ok(format!("{name}=={version}\n"))
        })
        .collect::<Result<Vec<_>>>()?;
    lines.sort_by_key(|line| line.to_ascii_lowercase());
    Ok(format!(
        "# Made by `cargo xtask pins` of requirements.in; change that.\n{}",
        lines.concat()
    ))
}

/// A range and not `latest`: of a range npm takes the newest that runs on the node that is here.
fn node_pins() -> Result<()> {
    let folder = clients().join("node");
    let manifest = std::fs::read_to_string(folder.join("package.json")).context("package.json")?;
    let manifest: Value = serde_json::from_str(&manifest).context("package.json")?;
    let chosen = manifest["dependencies"]
        .as_object()
        .context("no dependencies")?;
    let mut npm = process::command(
        "npm",
        &[
            "install",
            "--package-lock-only",
            "--save-exact",
            "--omit-lockfile-registry-resolved",
            "--no-audit",
            "--no-fund",
            "--silent",
        ],
    )?;
    npm.args(chosen.keys().map(|name| format!("{name}@>=0")));
    process::run(npm.current_dir(folder))
}

/// Within what `Cargo.toml` allows; another major version is for a person to choose.
fn rust_pins() -> Result<()> {
    let mut cargo = process::command("cargo", &["update", "--manifest-path"])?;
    process::run(cargo.arg(rust_clients::manifest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_a_line_by_name() {
        let report = serde_json::json!({ "install": [
            { "metadata": { "name": "msal", "version": "1.2" } },
            { "metadata": { "name": "Abc", "version": "3" } },
        ] });
        let text = pinned(&report).unwrap();
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["Abc==3", "msal==1.2"]
        );
        assert!(pinned(&serde_json::json!({})).is_err());
    }
}
