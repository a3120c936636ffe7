//! Descriptors in the event loop.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor. Needs the runtime.
///
/// # Errors
/// Where it can't be polled.
pub fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always answers with the same descriptor and keeps it open until it is dropped, which the AsyncFd
    // does after it has deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
