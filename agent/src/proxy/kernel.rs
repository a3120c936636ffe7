//! What the proxy may ask of the kernel's maps: the attribution record of an accepted socket, and the marker that lets
//! one upstream socket through. Two operations on two descriptors; nothing here can write a record.
//!
//! The trait is the one seam at which tests without the loaded programs stand in for the kernel. The shipped path has one
//! implementation, [`Maps`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use imds_guard_ebpf::CallerRecord;

use crate::sys::bpf;

/// The two operations.
pub(crate) trait Kernel: std::fmt::Debug {
    /// Who connected, as the kernel recorded it; none where it recorded nothing.
    fn record(&self, socket: BorrowedFd<'_>) -> io::Result<Option<CallerRecord>>;
    /// Exempts `socket` from interception for the endpoint `id`, before it connects.
    fn mark_upstream(&self, socket: BorrowedFd<'_>, id: u32) -> io::Result<()>;
}

/// The guard's maps: records read-only, markers writable.
#[derive(Debug)]
pub(crate) struct Maps {
    records: OwnedFd,
    upstream: OwnedFd,
}

impl Maps {
    /// As they came with the welcome.
    pub(crate) fn new(records: OwnedFd, upstream: OwnedFd) -> Self {
        Self { records, upstream }
    }
}

impl Kernel for Maps {
    fn record(&self, socket: BorrowedFd<'_>) -> io::Result<Option<CallerRecord>> {
        bpf::lookup_record(self.records.as_fd(), socket)
    }

    fn mark_upstream(&self, socket: BorrowedFd<'_>, id: u32) -> io::Result<()> {
        bpf::mark_upstream(self.upstream.as_fd(), socket, id)
    }
}
