//! bpf-linker: found among our own tools or on PATH, or built from crates.io against Debian's LLVM.

use crate::{lack::Lack, process, workspace};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Its version, and the LLVM that it is built against (that of the compiler, so that it can read its bitcode).
const VERSION: &str = "0.13.0";
const LLVM: &str = "22";

/// The linker to use, if there is one.
pub(crate) fn find() -> Option<PathBuf> {
    workspace::which("bpf-linker")
}

/// Find it, or build it into target/tools (45 s on two cores).
pub(crate) fn find_or_install() -> Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    if !prefix.join("lib").is_dir() {
        return Err(Lack::error(
            format!("no bpf-linker on PATH, and no LLVM {LLVM} to build it against"),
            format!(
                "  apt-get install llvm-{LLVM}-dev libpolly-{LLVM}-dev && cargo xtask setup\nor, with a prebuilt one:\n  cargo binstall bpf-linker"
            ),
        ));
    }
    install(&prefix)?;
    find().context("bpf-linker was installed, and yet isn't there")
}

fn install(prefix: &Path) -> Result<()> {
    println!("  building bpf-linker {VERSION} against LLVM {LLVM} (about a minute)");
    let root = workspace::tools();
    let feature = format!("llvm-{LLVM}");
    let mut cargo = process::command(
        "cargo",
        &[
            "install",
            "--locked",
            "--quiet",
            "bpf-linker",
            "--version",
            VERSION,
        ],
    )?;
    cargo
        .args(["--no-default-features", "--features", &feature, "--root"])
        .arg(&root);
    // An older llvm-config first on PATH misleads its build script ("unable to find library -lLLVM").
    cargo
        .env("LLVM_PREFIX", prefix)
        .env("PATH", workspace::path_with(&[&prefix.join("bin")])?);
    process::run(cargo.env("CARGO_TARGET_DIR", root.join("build")))?;
    // Half a gigabyte that nothing needs any more.
    std::fs::remove_dir_all(root.join("build"))
        .context("could not remove the linker's build directory")
}
