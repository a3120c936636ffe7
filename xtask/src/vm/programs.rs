//! What runs inside: the agent, the suites' binaries, and the programs that those start, for this machine's processor (the build
//! that the other tiers run) or for arm64.

use super::cross::Cross;
use super::initramfs;
use super::kernel::Arch;
use super::matrix::Entry;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Build for the processor of `entry`, and archive what [`lay_out`] says below `/t`.
pub(super) fn archive(entry: &Entry, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("programs");
    lay_out(entry, &tree.join("t"))?;
    let file = directory.join("programs.cpio");
    initramfs::archive(&tree, &file)?;
    fs::remove_dir_all(tree)?;
    Ok(file)
}

/// Build for the processor of `entry`, and put its suites and what they start, stripped, below `top`: programs in `bin`, suites
/// in `suites`, the agent's own tests in `own`.
pub(super) fn lay_out(entry: &Entry, top: &Path) -> Result<()> {
    let cross = match entry.arch {
        Arch::Amd64 => None,
        Arch::Arm64 => Some(Cross::prepare()?),
    };
    let stripped = workspace::target().join(format!("vm/stripped-{}", entry.arch.debian()));
    for below in ["bin", "suites", "own"] {
        fs::create_dir_all(top.join(below))?;
        fs::create_dir_all(stripped.join(below))?;
    }
    for built in build(cross.as_ref())? {
        if let Some(to) = built.place(entry) {
            strip(cross.as_ref(), &built.file, &stripped.join(&to))?;
            let linked = top.join(&to);
            // Programs come twice: tests have them built, too.
            if !linked.exists() {
                fs::hard_link(stripped.join(&to), linked).context(to)?;
            }
        }
    }
    Ok(())
}

/// One executable, as cargo describes it.
struct Built {
    name: String,
    kind: String,
    test: bool,
    file: PathBuf,
}

impl Built {
    /// Where it goes, if it goes along.
    fn place(&self, entry: &Entry) -> Option<String> {
        let suite = entry
            .suites
            .iter()
            .any(|prefix| self.name.starts_with(prefix));
        match (self.kind.as_str(), self.test) {
            ("test", true) if suite => Some(format!("suites/{}", self.name)),
            ("lib", true) if entry.own && self.name == "imds_guard" => {
                Some(format!("own/{}", self.name))
            }
            ("bin", false) if entry.starts(&self.name) => Some(format!("bin/{}", self.name)),
            _ => None,
        }
    }
}

/// Tests, and the programs that they start. On this machine's processor, what the other tiers run: a build of its own would
/// take longer than it saves.
fn build(cross: Option<&Cross>) -> Result<Vec<Built>> {
    let mut all = Vec::new();
    for what in selections(cross.is_some()) {
        let mut cargo = match cross {
            Some(cross) => cross.cargo()?,
            None => process::command("cargo", &[])?,
        };
        cargo.args(*what);
        cargo.args(["--locked", "--message-format=json-render-diagnostics"]);
        match cross {
            // Another compiler, so another build: with the optimisation that pays under emulation.
            Some(cross) => {
                cargo.args(["-p", "imds-guard", "-p", "imds-guard-tests"]);
                cargo.args(["--profile", "emulated"]).args(cross.options());
            }
            None => {
                cargo.arg("--workspace");
            }
        }
        all.extend(executables(&mut cargo)?);
    }
    ensure!(!all.is_empty(), "cargo built nothing");
    Ok(all)
}

/// Here, the two builds that the other tiers make. For another processor one: asked for apart, tests and programs want other
/// features of what both depend on, and all of that would be built twice.
fn selections(cross: bool) -> &'static [&'static [&'static str]] {
    if cross {
        &[&["build", "--tests", "--bins"]]
    } else {
        &[&["test", "--no-run"], &["build", "--bins"]]
    }
}

fn executables(cargo: &mut Command) -> Result<Vec<Built>> {
    eprintln!("  $ {}", process::shown(cargo));
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(
        output.status.success(),
        "`{}` failed",
        process::shown(cargo)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(messages
        .filter_map(|message| executable(&message))
        .collect())
}

fn executable(message: &Value) -> Option<Built> {
    let of_ours = message["package_id"].as_str()?.contains("imds-guard") || of_path(message);
    of_ours.then_some(())?;
    Some(Built {
        name: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        test: message["profile"]["test"].as_bool()?,
        file: PathBuf::from(message["executable"].as_str()?),
    })
}

/// Cargo names a path package by its directory, which may be called otherwise.
fn of_path(message: &Value) -> bool {
    let manifest = message["manifest_path"].as_str().unwrap_or_default();
    let root = workspace::root();
    ["agent/Cargo.toml", "tests/Cargo.toml"]
        .iter()
        .any(|ours| Path::new(manifest) == root.join(ours))
}

/// Without debug information a machine unpacks a fifth. Symbols stay: a panic names its functions.
fn strip(cross: Option<&Cross>, from: &Path, to: &Path) -> Result<()> {
    let program = cross.map_or("objcopy", |_| "aarch64-linux-gnu-objcopy");
    if newer(to, from) {
        return Ok(());
    }
    let mut command = process::command(program, &["--strip-debug"])?;
    let status = command
        .arg(from)
        .arg(to)
        .status()
        .context("objcopy (binutils)")?;
    ensure!(status.success(), "{program} {}", from.display());
    Ok(())
}

fn newer(file: &Path, than: &Path) -> bool {
    let at = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    at(file).is_some_and(|made| at(than).is_some_and(|source| made > source))
}
