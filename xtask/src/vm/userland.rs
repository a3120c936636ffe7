//! The programs that tests call beside their own (`sh`, `ip`, `setpriv`, `nft`, …): Debian's, of the host's own suite, so that
//! the C library is the one that test binaries were linked against. Unpacked, not installed: works for any architecture.

use super::kernel::Arch;
use super::{apt, initramfs};
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGES: &str = "base-passwd,coreutils,dash,grep,iproute2,kmod,libgcc-s1,mount,nftables,procps,python3,sed,util-linux";

/// Left out when unpacking: not needed, and each megabyte takes time to unpack in a machine.
const LEFT_OUT: [&str; 13] = [
    "path-exclude=/usr/share/*",
    "path-include=/usr/share/base-passwd/*",
    "path-exclude=/usr/lib/*/gconv/*",
    "path-exclude=/usr/lib/*/perl*",
    "path-exclude=/usr/bin/perl*",
    "path-exclude=/usr/lib/python3*/pydoc_data/*",
    "path-exclude=/usr/lib/python3*/lib2to3/*",
    "path-exclude=/usr/lib/python3*/email/*",
    "path-exclude=/usr/lib/python3*/asyncio/*",
    "path-exclude=/usr/lib/python3*/unittest/*",
    "path-exclude=/usr/lib/apt/*",
    "path-exclude=/usr/lib/systemd/*",
    "path-exclude=/lib/systemd/*",
];

const DIRECTORIES: [&str; 8] = ["dev", "proc", "sys", "tmp", "run", "etc", "var", "root"];

/// The archive of them, made where it isn't there or has other packages.
pub(super) fn archive(arch: Arch) -> Result<PathBuf> {
    let suite = apt::host_suite()?;
    let place = workspace::target().join(format!("vm/userland-{suite}-{}", arch.debian()));
    let (made, file) = (place.join("made"), place.join("userland.cpio"));
    let wanted = format!("{PACKAGES} {}", LEFT_OUT.join(" "));
    if fs::read_to_string(&made).is_ok_and(|what| what == wanted) {
        return Ok(file);
    }
    let _an_unfinished_one = fs::remove_dir_all(&place);
    fs::create_dir_all(&place)?;
    let tree = place.join("tree");
    unpack(&suite, arch, &tree)?;
    dress(&tree)?;
    initramfs::archive(&tree, &file)?;
    fs::remove_dir_all(&tree)?;
    fs::write(made, wanted)?;
    Ok(file)
}

fn unpack(suite: &str, arch: Arch, tree: &Path) -> Result<()> {
    let mut make = process::command(
        "mmdebstrap",
        &["--quiet", "--mode=root", "--variant=extract"],
    )?;
    make.args(["--format=directory", &format!("--include={PACKAGES}")]);
    make.arg(format!("--architectures={}", arch.debian()));
    make.args([
        "--aptopt=APT::Install-Recommends \"false\"",
        "--aptopt=Acquire::Languages \"none\"",
    ]);
    make.args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
    make.arg(suite).arg(tree);
    for of in [suite.to_owned(), format!("{suite}-security")] {
        make.arg(apt::source(&of, arch.debian())?);
    }
    process::run(&mut make)
}

/// What package scripts would have made.
fn dress(tree: &Path) -> Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(tree.join(directory))?;
    }
    for (master, name) in [("passwd.master", "passwd"), ("group.master", "group")] {
        let master = tree.join("usr/share/base-passwd").join(master);
        fs::copy(&master, tree.join("etc").join(name)).context("base-passwd")?;
    }
    fs::write(
        tree.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\n",
    )?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    // Each installation has its own; here nobody compares.
    fs::write(
        tree.join("etc/machine-id"),
        "4d415452495800000000000000000001\n",
    )?;
    // Debian's `sh` is a link that a script of dash makes.
    let sh = tree.join("bin/sh");
    if !sh.exists() {
        std::os::unix::fs::symlink("dash", sh)?;
    }
    Ok(())
}
