//! The clouds' crates for Rust, built from the workspace `tests/clients/rust` with its own lock file. Owns `target/rust-clients`; nothing of
//! theirs is in the graph of what we ship.
//!
//! The first build takes about two minutes and a quarter on two idle cores (258 s of processor time, half a gigabyte).

use crate::{process, workspace};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;

pub(crate) fn manifest() -> PathBuf {
    workspace::root().join("tests/clients/rust/Cargo.toml")
}

fn directory() -> PathBuf {
    workspace::target().join("rust-clients")
}

/// Why there is no Rust client here, if there is none.
pub(crate) fn lacks() -> Option<&'static str> {
    let program = directory().join("debug/imds-guard-rust-clients");
    (!program.is_file()).then_some("its crates could not be built: see above")
}

/// Build it, or see that it is built of what is pinned.
pub(crate) fn ensure() -> Result<()> {
    let started = Instant::now();
    if lacks().is_some() {
        println!(
            "  rust clients: 260 crates into target/rust-clients, the first time (about 3 minutes)"
        );
    }
    let mut cargo = process::command(
        "cargo",
        &["build", "--locked", "--quiet", "--manifest-path"],
    )?;
    cargo
        .arg(manifest())
        .env("CARGO_TARGET_DIR", directory())
        .env_remove("RUSTFLAGS");
    process::run(&mut cargo)?;
    println!(
        "  rust clients: as pinned ({:.1} s)",
        started.elapsed().as_secs_f32()
    );
    Ok(())
}
