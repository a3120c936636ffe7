//! What a machine boots into: archives of whole directories, laid end to end. The kernel unpacks them in turn, later files over
//! earlier ones, so that the parts that many machines share are made once.

use crate::process;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Archive all of `tree` into `file`; everything in it belongs to root. Uncompressed: decompression is slow under emulation.
pub(crate) fn archive(tree: &Path, file: &Path) -> Result<()> {
    let script = "find . -print0 | LC_ALL=C sort -z | cpio --null -o -H newc --quiet --owner=0:0";
    let unfinished = file.with_extension("part");
    let status = process::command("sh", &["-c", script])?
        .current_dir(tree)
        .stdout(File::create(&unfinished)?)
        .status()
        .context("sh")?;
    ensure!(status.success(), "cpio failed on {}", tree.display());
    fs::rename(unfinished, file).with_context(|| file.display().to_string())
}

/// Lay archives end to end.
pub(crate) fn join(parts: &[&Path], file: &Path) -> Result<()> {
    let mut out = File::create(file).with_context(|| file.display().to_string())?;
    for part in parts {
        let mut part = File::open(part).with_context(|| part.display().to_string())?;
        io::copy(&mut part, &mut out)?;
    }
    Ok(())
}
