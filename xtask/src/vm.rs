//! Emulated machines: other kernels than this one, from Debian's archive, with nothing but an archive in memory.

#![expect(dead_code, reason = "the tier that boots the other kernels follows")]

mod apt;
mod boot;
mod guest;
mod initramfs;
mod kernel;

use anyhow::Result;

/// `cargo xtask kernels`: what tests with guests need, below `target/vm`.
pub(crate) fn fetch() -> Result<()> {
    guest::ensure()
}
