//! `cargo xtask ebpf`: the kernel programs, compiled once and left where `agent/build.rs` embeds them from.
//!
//! Owns the object and its sidecar `<object>.sources`, the digest of what it was built from: `agent/build.rs` computes the
//! same and refuses an object of other sources. Never leaves an object whose sidecar doesn't fit.

use crate::toolchain::{self, BPF_TARGET, Compiler};
use crate::{lack::Lack, linker, process, workspace};
use anyhow::{Context, Result};
use clap::Args;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct Options {
    /// Build even when nothing changed.
    #[arg(long)]
    force: bool,
}

/// Run the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.force {
        remove(&sidecar())?;
    }
    ensure()
}

/// The object, fresh.
pub(crate) fn ensure() -> Result<()> {
    let digest = digest(&workspace::root())?;
    if object().is_file()
        && std::fs::read_to_string(sidecar()).is_ok_and(|have| have.trim() == digest)
    {
        eprintln!("ebpf: {} is fresh", object().display());
        return Ok(());
    }
    let started = Instant::now();
    let compiler = toolchain::find().ok_or_else(no_compiler)?;
    let linker = linker::find().ok_or_else(no_linker)?;
    eprintln!(
        "ebpf: compiler {compiler}\nebpf: linker {}",
        linker.display()
    );
    let built = build(&compiler, &linker)?;
    publish(&built, &digest)?;
    eprintln!(
        "ebpf: {} built in {:.1} s",
        object().display(),
        started.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Where the object goes.
pub(crate) fn object() -> PathBuf {
    workspace::target().join("ebpf/imds-guard-ebpf.o")
}

fn sidecar() -> PathBuf {
    object().with_extension("o.sources")
}

fn no_compiler() -> anyhow::Error {
    Lack::error(
        "no compiler for the BPF target",
        "  cargo xtask setup        (root on Debian 12 or 13)\nor, anywhere:\n  rustup toolchain install nightly --component rust-src",
    )
}

fn no_linker() -> anyhow::Error {
    Lack::error(
        "no bpf-linker among target/tools or on PATH",
        "  cargo xtask setup",
    )
}

fn build(compiler: &Compiler, linker: &Path) -> Result<PathBuf> {
    // A target directory of its own: another rustc would throw away the host's build each time.
    let target = workspace::target().join("bpf");
    let mut cargo = cargo(compiler)?;
    cargo.args([
        "build",
        "--locked",
        "--quiet",
        "--profile",
        "bpf",
        "--target",
        BPF_TARGET,
    ]);
    cargo
        .args([
            "-p",
            "imds-guard-ebpf",
            "--bin",
            "imds-guard-ebpf",
            "--target-dir",
        ])
        .arg(&target);
    // BTF comes from debug information, and only when the linker is asked for it.
    cargo.env(
        "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
        "-C debuginfo=2 -C link-arg=--btf",
    );
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(&mut cargo)?;
    Ok(target.join(BPF_TARGET).join("bpf/imds-guard-ebpf"))
}

fn cargo(compiler: &Compiler) -> Result<Command> {
    match compiler {
        Compiler::Debian { rustc, .. } => {
            let mut cargo = process::command("cargo", &[])?;
            // aya-ebpf uses unstable features of core; a release compiler takes them with this, and only here.
            cargo
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .env_remove("RUSTUP_TOOLCHAIN");
            Ok(cargo)
        }
        Compiler::Nightly { .. } => {
            let mut cargo = process::command(
                "rustup",
                &["run", "nightly", "cargo", "-Z", "build-std=core"],
            )?;
            cargo.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
            Ok(cargo)
        }
    }
}

fn publish(built: &Path, digest: &str) -> Result<()> {
    let object = object();
    let directory = object.parent().context("the object has no directory")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("could not create {}", directory.display()))?;
    // Sidecar away first, back last: an interruption leaves an object that is refused, never one that is believed wrongly.
    remove(&sidecar())?;
    std::fs::copy(built, &object).with_context(|| format!("could not copy {}", built.display()))?;
    std::fs::write(sidecar(), format!("{digest}\n")).context("could not write the sidecar")
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// SHA-256, as lower-case hex, over `path NUL contents NUL` of `ebpf/Cargo.toml` and every `ebpf/src/**.rs`, sorted by path;
/// paths are relative to the top of the work tree, with slashes.
pub(crate) fn digest(root: &Path) -> Result<String> {
    let mut files = vec![PathBuf::from("ebpf/Cargo.toml")];
    sources(root, Path::new("ebpf/src"), &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let contents = std::fs::read(root.join(&file))
            .with_context(|| format!("could not read {}", file.display()))?;
        hash.update(file.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(contents);
        hash.update([0]);
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    }))
}

fn sources(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = root.join(directory);
    for entry in
        std::fs::read_dir(&at).with_context(|| format!("could not list {}", at.display()))?
    {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            sources(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(extra: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("ebpf/src/connect")).unwrap();
        for (path, text) in [
            ("ebpf/Cargo.toml", "[package]"),
            ("ebpf/src/main.rs", "fn main() {}"),
        ]
        .iter()
        .chain(extra)
        {
            fs::write(root.path().join(path), text).unwrap();
        }
        root
    }

    #[test]
    fn the_digest_is_of_names_and_contents_in_order() {
        let expected =
            Sha256::digest(b"ebpf/Cargo.toml\0[package]\0ebpf/src/main.rs\0fn main() {}\0");
        let expected = expected
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>();
        assert_eq!(digest(tree(&[]).path()).unwrap(), expected);
    }

    #[test]
    fn a_file_below_a_folder_counts_and_other_files_do_not() {
        let plain = digest(tree(&[]).path()).unwrap();
        assert_ne!(
            digest(tree(&[("ebpf/src/connect/v6.rs", "")]).path()).unwrap(),
            plain
        );
        assert_eq!(
            digest(tree(&[("ebpf/src/notes.txt", "x")]).path()).unwrap(),
            plain
        );
    }
}
