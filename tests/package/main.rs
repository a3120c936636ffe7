//! The Debian package: what is in it, and what dpkg makes of it on a machine with a real systemd.

mod contents;
mod life;
#[expect(
    dead_code,
    reason = "shared with the suite of the units, which needs more of it"
)]
#[path = "../systemd/machine.rs"]
mod machine;
mod stage;
mod steps;

use anyhow::{Result, ensure};
use imds_guard_tests::binary;
use std::path::PathBuf;

/// A package that `cargo xtask test package` has made, by its revision.
fn deb(revision: u32) -> Result<PathBuf> {
    let program = binary("imds-guard")?;
    let target = program.ancestors().nth(2).unwrap_or(&program);
    let version = env!("CARGO_PKG_VERSION");
    let deb = target.join(format!("dist/imds-guard_{version}-{revision}_amd64.deb"));
    ensure!(
        deb.is_file(),
        "{} is not there: cargo xtask test package",
        deb.display()
    );
    Ok(deb)
}
