//! Where the programs under test are: beside the test's own binary, or where `IMDS_GUARD_BIN_DIR` says.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// The path of a program of this workspace, as built by the run that built this test.
///
/// # Errors
/// When it isn't there: then the build before the test was not `cargo xtask test`'s.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("IMDS_GUARD_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => beside_this_test()?,
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: `cargo build -p imds-guard -p imds-guard-tests --bins`",
        path.display()
    );
    Ok(path)
}

/// The directory with what guests boot from.
///
/// # Errors
/// When it isn't there.
pub fn guest_image() -> Result<PathBuf> {
    let target = beside_this_test()?;
    let target = target.parent().context("the build directory")?;
    let image = target.join("vm/guest");
    ensure!(
        image.join("release").is_file(),
        "{} is not there: `cargo xtask kernels`",
        image.display()
    );
    Ok(image)
}

fn beside_this_test() -> Result<PathBuf> {
    let mut directory = std::env::current_exe().context("no path for this test")?;
    directory.pop();
    // A test is in target/debug/deps, a program in target/debug.
    if directory.ends_with("deps") {
        directory.pop();
    }
    Ok(directory)
}
