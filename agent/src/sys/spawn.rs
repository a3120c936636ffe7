//! Starting a child that inherits exactly one of our descriptors.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets the child keep `fd` under the number that is returned. Every other descriptor of ours is close-on-exec.
pub fn inherit(command: &mut Command, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    let keep = move || {
        // Between fork and exec: only fcntl(2), which is async-signal-safe.
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(std::io::Error::from)?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and does not allocate.
    unsafe { command.pre_exec(keep) };
    number
}

/// Takes over a descriptor that our parent left open for us, and keeps it from our own children.
///
/// # Errors
/// Where there is no such descriptor.
pub fn inherited(number: RawFd) -> std::io::Result<OwnedFd> {
    if number <= 2 {
        return Err(std::io::Error::other("0, 1 and 2 are taken"));
    }
    // SAFETY: only a look at whether it is open; nothing is closed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and by the contract of the command line it is ours alone; called once, before any other
    // descriptor is made.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_has_this_descriptor_and_no_other() {
        let (other, fd) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut command = Command::new("sh");
        let number = inherit(&mut command, fd);
        let script = format!(
            "test -e /proc/self/fd/{number} && test ! -e /proc/self/fd/{}",
            other.as_raw_fd()
        );
        assert!(command.args(["-c", &script]).status().unwrap().success());
    }
}
