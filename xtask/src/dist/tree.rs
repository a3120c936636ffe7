//! The installed tree: which file of ours comes where. Debian's package and the tarball hold the same one.

use super::{Release, binary, licences};
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const DOC: &str = "usr/share/doc/imds-guard";

/// Files of the work tree, and where they come.
const FILES: [(&str, &str); 8] = [
    (
        "systemd/etc/imds-guard.toml",
        "etc/imds-guard/imds-guard.toml",
    ),
    (
        "systemd/logrotate.d/imds-guard",
        "etc/logrotate.d/imds-guard",
    ),
    (
        "systemd/sysusers.d/imds-guard.conf",
        "usr/lib/sysusers.d/imds-guard.conf",
    ),
    (
        "systemd/tmpfiles.d/imds-guard.conf",
        "usr/lib/tmpfiles.d/imds-guard.conf",
    ),
    ("README.md", "usr/share/doc/imds-guard/README.md"),
    ("systemd/README.md", "usr/share/doc/imds-guard/systemd.md"),
    (
        "agent/docs/man/imds-guard.toml.5",
        "usr/share/man/man5/imds-guard.toml.5",
    ),
    (
        "systemd/deb/copyright",
        "usr/share/doc/imds-guard/copyright",
    ),
];

/// Folders of the work tree, the ending of what is taken, and where it comes.
const FOLDERS: [(&str, &str, &str); 3] = [
    ("systemd", "service", "usr/lib/systemd/system"),
    (
        "systemd/examples",
        "toml",
        "usr/share/doc/imds-guard/examples",
    ),
    ("agent/docs", "md", DOC),
];

/// What the shells look for, by what clap_complete calls it.
const COMPLETIONS: [(&str, &str); 3] = [
    (
        "imds-guard.bash",
        "usr/share/bash-completion/completions/imds-guard",
    ),
    (
        "_imds-guard",
        "usr/share/zsh/vendor-completions/_imds-guard",
    ),
    (
        "imds-guard.fish",
        "usr/share/fish/vendor_completions.d/imds-guard.fish",
    ),
];

/// Manual pages and completions, made from the command line's definition.
pub(super) fn documents() -> Result<PathBuf> {
    let to = super::directory().join("documents");
    let _of_an_earlier_run = fs::remove_dir_all(&to);
    fs::create_dir_all(&to)?;
    let example = [
        "run",
        "--locked",
        "--quiet",
        "-p",
        "imds-guard",
        "--example",
    ];
    let mut cargo = process::command("cargo", &example)?;
    process::run(cargo.args(["documents", "--"]).arg(&to))?;
    Ok(to)
}

/// Lay it out, anew.
pub(super) fn lay(release: &Release, program: &Path, documents: &Path, tree: &Path) -> Result<()> {
    let _of_an_earlier_run = fs::remove_dir_all(tree);
    let bin = tree.join("usr/bin");
    fs::create_dir_all(&bin)?;
    binary::strip(release.architecture, program, &bin.join("imds-guard"))?;
    let root = workspace::root();
    for (from, to) in FILES {
        put(&root.join(from), &tree.join(to))?;
    }
    for (folder, ending, to) in FOLDERS {
        all(&root.join(folder), ending, &tree.join(to))?;
    }
    for (from, to) in COMPLETIONS {
        put(&documents.join("completions").join(from), &tree.join(to))?;
    }
    all(
        &documents.join("man"),
        "8",
        &tree.join("usr/share/man/man8"),
    )?;
    let theirs = licences::collect(release.architecture.triple())?;
    fs::write(tree.join(DOC).join("third-party-licences.txt"), theirs)?;
    modes(tree)
}

fn all(folder: &Path, ending: &str, to: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == ending) {
            put(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn put(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file without a folder")?)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// The same for everybody, whatever the umask was and the checkout has.
fn modes(path: &Path) -> Result<()> {
    let mode = if path.is_dir() || path.ends_with("usr/bin/imds-guard") {
        0o755
    } else {
        0o644
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            modes(&entry?.path())?;
        }
    }
    Ok(())
}
