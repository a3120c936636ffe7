//! Where things are. Every path that a verb uses starts here; none is written out anywhere else.

use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The top of the work tree.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let manifest = PathBuf::from(manifest);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where tools that this project installs for itself live (`bin/` below it).
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// PATH with our own tools first, and `first` before them.
pub(crate) fn path_with(first: &[&Path]) -> Result<OsString> {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let all = first
        .iter()
        .map(|p| p.to_path_buf())
        .chain([tools().join("bin")])
        .chain(std::env::split_paths(&inherited));
    std::env::join_paths(all).context("PATH has an entry with a colon in it")
}

/// The first `name` among our own tools and PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = path_with(&[]).ok()?;
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
