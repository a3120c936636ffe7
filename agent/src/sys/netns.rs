//! Work inside another network namespace.
//!
//! setns(2) moves one thread, for good: so it is always a thread made for the purpose, never one of the runtime's.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own inside the network namespace `netns` (an open `/proc/PID/ns/net` or a pidfd) and
/// gives back what it returns. Sockets made there stay in that namespace wherever they are used.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` if the descriptor is no network namespace; whatever starting a thread fails with.
pub fn within<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
