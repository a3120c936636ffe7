//! Process descriptors: the only name of a process that can't be reused. Opens, asks, and polls them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor of one process. Becomes readable when the whole thread group has exited.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// What the kernel says of a live process in one call (`struct pidfd_info`, `include/uapi/linux/pidfd.h`).
/// Credentials are relative to our own user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "field names are the kernel's")]
pub struct Info {
    pub mask: u64,
    pub cgroup_id: u64,
    pub pid: u32,
    pub tgid: u32,
    pub ppid: u32,
    pub ruid: u32,
    pub rgid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub exit_code: i32,
    pub coredump_mask: u32,
    pub spare: u32,
}

// PIDFD_INFO_SIZE_VER1: the ioctl number contains the size. A kernel that knows the first version alone (64 bytes; before
// 6.16) leaves the rest as it is.
const _: () = assert!(size_of::<Info>() == 72);

const INFO_PID: u64 = 1;
const INFO_CREDS: u64 = 1 << 1;
const INFO_CGROUPID: u64 = 1 << 2;
const INFO_COREDUMP: u64 = 1 << 4;

/// In `coredump_mask`: it has dumped core, which it does while it dies.
const COREDUMPED: u32 = 1;
/// In `coredump_mask`: what would become of its memory (nothing, a user's dump, root's dump). One of them while it has memory.
const COREDUMP_FATES: u32 = 1 << 1 | 1 << 2 | 1 << 3;

impl Info {
    /// Whether the leader of the process has not begun to exit: its memory is there. False proves nothing: the kernel is older
    /// than 6.16, or the leader alone has ended; then [`PidFd::exited`] knows.
    pub const fn is_alive(&self) -> bool {
        self.mask & INFO_COREDUMP != 0
            && self.coredump_mask & COREDUMPED == 0
            && self.coredump_mask & COREDUMP_FATES != 0
    }
}

nix::ioctl_readwrite!(
    /// `PIDFD_GET_INFO`.
    pidfd_get_info,
    0xFF,
    11,
    Info
);

impl PidFd {
    /// `pidfd_open(2)`. `ESRCH` where there is no such process now.
    ///
    /// # Errors
    /// The errno.
    pub fn open(tgid: u32) -> Result<Self, Errno> {
        // SAFETY: takes two integers, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tgid, 0u32) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the call above made this descriptor for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `PIDFD_GET_INFO` (kernel ≥ 6.13): credentials and cgroup in one call. A zombie that is not yet reaped still
    /// answers: see [`Info::is_alive`], else ask [`PidFd::exited`] as well.
    ///
    /// # Errors
    /// `ESRCH` when the process is gone; `ENOTTY` or `EINVAL` on a kernel that lacks the call, or where it did not fill in
    /// all that was asked for.
    pub fn info(&self) -> Result<Info, Errno> {
        let asked = INFO_PID | INFO_CREDS | INFO_CGROUPID;
        let mut info = Info {
            mask: asked | INFO_COREDUMP,
            ..Info::default()
        };
        // SAFETY: `info` is the struct whose size the ioctl number names, and outlives the call.
        unsafe { pidfd_get_info(self.0.as_raw_fd(), &raw mut info) }?;
        if info.mask & asked == asked {
            Ok(info)
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Number of the process in pidfs (kernel ≥ 6.9), which no other gets before the next boot. On an older kernel all
    /// pidfds share one inode.
    ///
    /// # Errors
    /// The errno of `fstat(2)`.
    pub fn inode(&self) -> Result<u64, Errno> {
        nix::sys::stat::fstat(&self.0).map(|stat| stat.st_ino)
    }

    /// A copy of the process's descriptor `number`. Needs the right to debug it.
    ///
    /// # Errors
    /// `EBADF` if it has none of that number, `EPERM`, `ESRCH`.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: takes three integers, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0u32) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the call above made this descriptor for us (close-on-exec), and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Ends the process (SIGKILL), and never one that has its number by now.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM`.
    pub fn kill(&self) -> Result<(), Errno> {
        let (fd, signal) = (self.0.as_raw_fd(), libc::SIGKILL);
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: takes three integers and a pointer that may be null.
        let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0u32) };
        Errno::result(done).map(drop)
    }

    /// Whether the whole process has exited (a zombie counts as exited).
    ///
    /// # Errors
    /// The errno of `poll(2)`.
    pub fn exited(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)?;
        Ok(fds[0].any().unwrap_or(true))
    }
}

impl From<OwnedFd> for PidFd {
    /// A pidfd that came over a socket.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_there_and_ours() {
        let fd = PidFd::open(std::process::id()).unwrap();
        assert!(!fd.exited().unwrap());
        match fd.info() {
            Ok(info) => {
                assert_eq!(info.tgid, std::process::id());
                assert_eq!(info.euid, nix::unistd::geteuid().as_raw());
                assert_ne!(info.cgroup_id, 0);
                // Kernels before 6.16 don't say.
                assert_eq!(info.is_alive(), info.mask & INFO_COREDUMP != 0);
            }
            // Kernels before 6.13.
            Err(errno) => assert!(matches!(errno, Errno::ENOTTY | Errno::EINVAL), "{errno}"),
        }
    }

    #[test]
    fn a_dead_process_has_exited_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let fd = PidFd::open(child.id()).unwrap();
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 5_000u16).unwrap();
        assert!(fd.exited().unwrap());
        if let Ok(info) = fd.info() {
            assert!(!info.is_alive(), "a zombie passed as alive: {info:?}");
        }
        child.wait().unwrap();
        assert!(fd.exited().unwrap());
        assert_eq!(PidFd::open(u32::MAX >> 1).unwrap_err(), Errno::ESRCH);
    }
}
