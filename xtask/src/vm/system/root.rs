//! Root file systems: a suite's packages, really installed, made anew once a day or when other packages are wanted.

use super::disk;
use crate::vm::apt;
use crate::vm::kernel::{Arch, fresh};
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What each of them has beside a minimal Debian.
pub(super) const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,nftables,curl,kmod,procps";

const MACHINE_ID: &str = "4d415452495800000000000000000002\n";

/// MiB for what the machine writes.
const ROOM: u64 = 700;

/// They wait for what such a machine hasn't got, or do what takes seconds there and nobody needs.
const MASKED: [&str; 35] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "systemd-random-seed.service",
    "systemd-journal-flush.service",
    // What was done when the root file system was made.
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
    "systemd-machine-id-commit.service",
    "systemd-firstboot.service",
    // Books that nobody reads.
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-pstore.service",
    "systemd-binfmt.service",
    "systemd-tmpfiles-clean.timer",
    // File systems that nobody looks into.
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    // Podman is called, not served.
    "podman.service",
    "podman.socket",
    "podman-restart.service",
    "podman-auto-update.service",
    "podman-auto-update.timer",
    "netavark-dhcp-proxy.socket",
    "netavark-dhcp-proxy.service",
];

/// The image for the machine `name`. Where the archive can't be asked, an older one of the same packages serves.
pub(super) fn image(name: &str, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let place = workspace::target().join("vm/roots").join(name);
    let (made, file) = (place.join("made"), place.join("root.img"));
    let include = [&[PACKAGES], packages].concat().join(",");
    let unit = include_str!("payload.service");
    let wanted = format!("{suite} {include} {MACHINE_ID}{}\n{unit}", MASKED.join(" "));
    let had = fs::read_to_string(&made).is_ok_and(|what| what == wanted);
    if had && fresh(&made) {
        return Ok(file);
    }
    match install(&place, suite, &include) {
        Err(error) if had => {
            println!("  {suite}: can't be made anew ({error:#}); what is here is used");
            return Ok(file);
        }
        other => other?,
    }
    fs::write(made, wanted)?;
    Ok(file)
}

fn install(place: &Path, suite: &str, include: &str) -> Result<()> {
    let tree = place.join("tree");
    let _an_unfinished_one = fs::remove_dir_all(&tree);
    fs::create_dir_all(place)?;
    println!("  installing {suite} with {include}");
    let mut make = process::command(
        "mmdebstrap",
        &["--quiet", "--mode=root", "--variant=minbase"],
    )?;
    make.args(["--format=directory", &format!("--include={include}")]);
    make.args([
        "--aptopt=APT::Install-Recommends \"false\"",
        "--aptopt=Acquire::Languages \"none\"",
    ]);
    let without = ["man", "doc", "locale", "info"];
    make.args(without.map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")));
    make.arg(suite).arg(&tree);
    for of in [suite.to_owned(), format!("{suite}-security")] {
        make.arg(apt::source(&of, Arch::Amd64.debian())?);
    }
    process::run(&mut make)?;
    dress(&tree)?;
    disk::make(&tree, &place.join("root.img"), ROOM)?;
    fs::remove_dir_all(&tree).context("the tree")
}

/// As a machine that boots to its payload, and no further.
fn dress(tree: &Path) -> Result<()> {
    let etc = tree.join("etc");
    // Of its own, but for all of them: without one, each boot would be the first.
    fs::write(etc.join("machine-id"), MACHINE_ID)?;
    fs::write(etc.join("fstab"), "")?;
    fs::write(etc.join("hostname"), "machine\n")?;
    let units = etc.join("systemd/system");
    for unit in MASKED {
        link("/dev/null", &units.join(unit))?;
    }
    link(
        "/usr/lib/systemd/system/multi-user.target",
        &units.join("default.target"),
    )?;
    fs::write(
        units.join("payload.service"),
        include_str!("payload.service"),
    )?;
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    link("../payload.service", &wanted.join("payload.service"))?;
    fs::create_dir_all(tree.join("usr/lib/modules")).context("the place of modules")
}

fn link(to: &str, at: &Path) -> Result<()> {
    let _another = fs::remove_file(at);
    symlink(to, at).with_context(|| at.display().to_string())
}
