//! A whole Debian as a machine: systemd as process 1, whatever packages a suite has, that suite's own kernel with all of its
//! modules. For what namespaces can't show: real container engines, real units, installing a package.
//!
//! Owns its disks (root file system, modules, payload: [`disk`], [`root`]) and the small initramfs that mounts them. What is
//! run inside is its caller's: a directory with a `test.sh` in it, which reports as the machines of the matrix do
//! ([`super::verdict`]).

mod disk;
mod root;

use super::boot::{Boot, Ended};
use super::kernel::{Arch, Kernel};
use super::{executable, guest, initramfs};
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the initramfs loads before there are disks. What a kernel has built in is left out.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// A machine to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System<'a> {
    /// Of its directories below `target/vm`; two machines of one name can't run at once.
    pub(crate) name: &'a str,
    /// `bookworm`, `trixie`. Its kernel is that of `SUITE-security`.
    pub(crate) suite: &'a str,
    /// Beside [`root::PACKAGES`]; recommended ones aren't installed.
    pub(crate) packages: &'a [&'a str],
    /// A directory, seen inside at `/run/payload`, read-only. Its `test.sh` is run by root's `sh` when the system has come up;
    /// what it prints is the report. When it ends, so does the machine.
    pub(crate) payload: &'a Path,
    /// MiB.
    pub(crate) memory: u32,
    pub(crate) processors: u32,
    /// From power-on.
    pub(crate) limit: Duration,
}

/// One that can be booted.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    system: System<'a>,
    pub(crate) kernel: Kernel,
    directory: PathBuf,
    initramfs: PathBuf,
    disks: [PathBuf; 3],
}

impl<'a> System<'a> {
    /// Make what isn't there: kernel and root file system are looked up anew once a day.
    pub(crate) fn prepare(self) -> Result<Ready<'a>> {
        let kernel = Kernel::of(&format!("{}-security", self.suite), Arch::Amd64)?;
        let directory = workspace::target().join("vm/systems").join(self.name);
        fs::create_dir_all(&directory)?;
        let payload = directory.join("payload.img");
        disk::make(self.payload, &payload, 1)?;
        Ok(Ready {
            initramfs: initramfs_of(&kernel, &directory)?,
            disks: [
                root::image(self.name, self.suite, self.packages)?,
                modules(&kernel)?,
                payload,
            ],
            system: self,
            kernel,
            directory,
        })
    }
}

impl Ready<'_> {
    /// Boot it, and wait for its end. `console.log` and `report.log` are below `target/vm/systems/NAME`.
    pub(crate) fn run(&self) -> Result<Ended> {
        let disks = self.disks.each_ref().map(PathBuf::as_path);
        let boot = Boot {
            kernel: &self.kernel,
            initramfs: &self.initramfs,
            disks: &disks,
            processors: self.system.processors,
            memory: self.system.memory,
            limit: self.system.limit,
            logs: &self.directory,
        };
        boot.run()
    }
}

/// Mounts the disks and hands over to systemd.
fn initramfs_of(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let (tree, file) = (
        directory.join("initramfs.tree"),
        directory.join("initramfs"),
    );
    let _of_the_last_run = fs::remove_dir_all(&tree);
    for below in ["bin", "dev", "proc", "sys", "system"] {
        fs::create_dir_all(tree.join(below))?;
    }
    let busybox = tree.join("bin/busybox");
    fs::copy(guest::busybox(Arch::Amd64)?, &busybox).context("busybox")?;
    executable(&busybox)?;
    kernel.modules(&MODULES, &tree.join("modules"))?;
    fs::write(tree.join("init"), include_str!("system/init.sh"))?;
    executable(&tree.join("init"))?;
    initramfs::archive(&tree, &file)?;
    Ok(file)
}

/// All modules of a kernel, as they lie in `/lib/modules`.
fn modules(kernel: &Kernel) -> Result<PathBuf> {
    let file = workspace::target().join(format!("vm/modules-{}.img", kernel.release));
    if !file.is_file() {
        let tree = workspace::target().join("vm/modules-tree");
        let _an_unfinished_one = fs::remove_dir_all(&tree);
        kernel.all_modules(&tree)?;
        disk::make(&tree, &file, 1)?;
        fs::remove_dir_all(&tree)?;
    }
    Ok(file)
}
