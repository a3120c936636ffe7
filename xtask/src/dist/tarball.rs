//! The tarball, for whoever has no dpkg: the installed tree as it is, below one folder. systemd/README.md says how to install it.

use super::Release;
use crate::process;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Pack it: names sorted, everything root's and of one time.
pub(super) fn make(release: &Release, tree: &Path) -> Result<PathBuf> {
    let folder = format!("imds-guard-{}", release.version);
    let architecture = release.architecture.debian();
    let to = super::directory().join(format!("{folder}-linux-{architecture}.tar.xz"));
    let mut tar = process::command("tar", &["--create", "--xz", "--sort=name", "--format=gnu"])?;
    tar.args(["--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", release.epoch));
    tar.arg(format!("--transform=s,^\\.,{folder},"));
    tar.arg("--file").arg(&to).arg("--directory").arg(tree);
    process::run(tar.arg("."))?;
    Ok(to)
}
