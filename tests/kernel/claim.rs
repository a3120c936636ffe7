//! What a caller says about itself on the connection, to be compared with what the kernel said about it.

use std::{net::UdpSocket, os::fd::AsFd as _, os::unix::fs::MetadataExt as _};

use imds_guard::sys::sockopt::netns_cookie;

/// Length on the wire.
pub(crate) const LENGTH: usize = 40;
pub(crate) const MAGIC: u32 = 0x434c_414d;

/// A process as it sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) tgid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) cgroup: u64,
    pub(crate) exe: u64,
    /// Cookie of the calling thread's network namespace.
    pub(crate) netns: u64,
}

impl Claim {
    pub(crate) fn of_this_process() -> anyhow::Result<Self> {
        Ok(Self {
            tgid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            cgroup: std::fs::metadata(imds_guard_tests::Cgroup::own()?)?.ino(),
            exe: std::fs::metadata("/proc/self/exe")?.ino(),
            netns: netns_cookie(UdpSocket::bind("0.0.0.0:0")?.as_fd())?,
        })
    }

    pub(crate) fn bytes(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        for (at, word) in [(0, MAGIC), (4, self.tgid), (8, self.uid), (12, self.gid)] {
            out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        out[16..24].copy_from_slice(&self.cgroup.to_ne_bytes());
        out[24..32].copy_from_slice(&self.exe.to_ne_bytes());
        out[32..].copy_from_slice(&self.netns.to_ne_bytes());
        out
    }
}
