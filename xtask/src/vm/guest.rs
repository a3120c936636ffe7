//! What tests build guests from: a kernel and an archive without an init, laid out where tests find them.
//!
//! `target/vm/guest/vmlinuz` is the image. `target/vm/guest/base.cpio` has `/bin/busybox` and `/modules` with `order`, the
//! names to `insmod` one after the other. Behind it goes an archive of the test's own, with `/init` in it.

use super::apt::Archive;
use super::initramfs;
use super::kernel::{Arch, Kernel};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A stable one with a network card's driver in few modules.
const SUITE: &str = "trixie-security";
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "af_packet",
    "dummy",
    "8021q",
    "vsock",
];

fn directory() -> PathBuf {
    workspace::target().join("vm/guest")
}

/// Make both files, or leave them as they are when they are of the kernel that Debian has.
pub(crate) fn ensure() -> Result<()> {
    let kernel = Kernel::of(SUITE, Arch::Amd64)?;
    let place = directory();
    // Written last.
    let made = place.join("release");
    if fs::read_to_string(&made).is_ok_and(|release| release == kernel.release) {
        return Ok(());
    }
    let tree = place.join("tree");
    let _an_older_one = fs::remove_dir_all(&place);
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy(busybox(Arch::Amd64)?, tree.join("bin/busybox")).context("busybox")?;
    kernel.modules(&MODULES, &tree.join("modules"))?;
    initramfs::archive(&tree, &place.join("base.cpio"))?;
    fs::copy(kernel.image()?, place.join("vmlinuz"))?;
    fs::write(made, &kernel.release).context("target/vm/guest/release")
}

/// A static busybox for `arch`, out of the host's own suite.
pub(crate) fn busybox(arch: Arch) -> Result<PathBuf> {
    let tree = workspace::target().join(format!("vm/busybox-{}", arch.debian()));
    let find = |tree: &Path| {
        let places = ["bin/busybox", "usr/bin/busybox"].map(|place| tree.join(place));
        places.into_iter().find(|place| place.is_file())
    };
    if let Some(found) = find(&tree) {
        return Ok(found);
    }
    let archive = Archive::refresh(&super::apt::host_suite()?, arch.debian())?;
    archive.unpack(&["busybox-static".to_owned()], &tree)?;
    find(&tree).context("busybox-static has no busybox")
}
