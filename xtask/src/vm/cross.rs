//! Building for arm64 with what Debian has: its rustc (the one that compiles the kernel programs), the standard library of
//! exactly that version for arm64, and a C compiler. Nothing of arm64 is installed on this machine.
//!
//! A toolchain of rustup's can't take Debian's standard library, and would have to fetch its own from elsewhere.

use super::apt::{self, Archive};
use crate::lack::Lack;
use crate::{ebpf, process, workspace};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const RUSTC: &str = "/usr/bin/rustc";

/// A compiler for arm64.
pub(crate) struct Cross {
    sysroot: PathBuf,
}

impl Cross {
    /// Put the compiler's libraries for arm64 together, where they aren't yet.
    pub(crate) fn prepare() -> Result<Self> {
        let query = ["-W", "-f", "${Version}", "rustc-web"];
        let version = process::output("dpkg-query", &query)
            .context("Debian's rustc isn't there: cargo xtask setup")?;
        let sysroot = workspace::target().join("vm/arm64-sysroot");
        let made = sysroot.join("version");
        if !fs::read_to_string(&made).is_ok_and(|have| have == version) {
            let _of_another_version = fs::remove_dir_all(&sysroot);
            assemble(&version, &sysroot)?;
            fs::write(made, version)?;
        }
        Ok(Self { sysroot })
    }

    /// Cargo, to be given a subcommand.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut cargo = process::command("cargo", &[])?;
        let flags = format!("--sysroot\x1f{}", self.sysroot.display());
        // Build scripts and macros are for this machine, so they don't get these flags.
        cargo
            .env("RUSTC", RUSTC)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                "aarch64-linux-gnu-gcc",
            )
            .env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc")
            .env("IMDS_GUARD_EBPF_OBJECT", ebpf::object());
        Ok(cargo)
    }

    /// Behind a subcommand that compiles. A target directory of its own, for it is another compiler.
    pub(crate) fn options(&self) -> Vec<String> {
        ["--target", TARGET, "--target-dir"]
            .map(str::to_owned)
            .into_iter()
            .chain([directory().display().to_string()])
            .collect()
    }

    /// What has been built there, by profile and name.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        directory().join(TARGET).join(name)
    }
}

fn directory() -> PathBuf {
    workspace::target().join("vm/build-arm64")
}

fn assemble(version: &str, sysroot: &Path) -> Result<()> {
    let package = format!("libstd-rust-web-dev={version}");
    let host = apt::host_suite()?;
    let suites = [format!("{host}-security"), host];
    let unpacked = suites.iter().any(|suite| {
        let unpack = |archive: Archive| archive.unpack(std::slice::from_ref(&package), sysroot);
        Archive::refresh(suite, "arm64").and_then(unpack).is_ok()
    });
    ensure!(
        unpacked,
        Lack::error(
            format!(
                "Debian has no standard library for arm64 of the version that this rustc has ({version})"
            ),
            "  apt-get update\n  apt-get install --only-upgrade rustc-web"
        )
    );
    // rustc looks below lib/; the package has it below usr/lib/.
    symlink("usr/lib", sysroot.join("lib"))?;
    let of_this_machine = process::output(RUSTC, &["--print", "sysroot"]).context(RUSTC)?;
    let libraries = format!("lib/rustlib/{}", host_triple()?);
    symlink(
        Path::new(&of_this_machine).join(&libraries),
        sysroot.join(&libraries),
    )
    .context("the host's libraries")
}

fn host_triple() -> Result<String> {
    let version = process::output(RUSTC, &["-vV"]).context(RUSTC)?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("rustc names no host")?.to_owned())
}
