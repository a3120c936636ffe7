//! Disks out of directories, without mounting anything.

use crate::process;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Not needed: a machine's writes are thrown away with it.
const WITHOUT: &str = "^has_journal,^metadata_csum";

/// An ext4 with what `tree` holds, owners, modes and capabilities as they are, and `free` MiB of room (sparse).
pub(super) fn make(tree: &Path, file: &Path, free: u64) -> Result<()> {
    let unfinished = file.with_extension("part");
    let _an_older_one = fs::remove_file(&unfinished);
    // Inodes, blocks that are not full, and the file system's own: a sixth of what the files have, and some.
    let size = mebibytes(tree)? * 7 / 6 + 16 + free;
    let mut make = process::command("mkfs.ext4", &["-q", "-F", "-O", WITHOUT])?;
    make.args(["-E", "root_owner=0:0", "-d"]).arg(tree);
    make.arg(&unfinished).arg(format!("{size}M"));
    process::run(&mut make)?;
    fs::rename(unfinished, file).with_context(|| file.display().to_string())
}

fn mebibytes(tree: &Path) -> Result<u64> {
    let tree = tree.display().to_string();
    let told = process::output("du", &["-sm", &tree]).context("du")?;
    let number = told.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("du said {told:?}"))
}
