//! Cgroup ids and paths. A cgroup's id is the inode number of its directory, and the file handle by which it can be
//! opened again (`FILEID_KERNFS`), so an id from the kernel is resolved without a walk and without a race.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// `FILEID_KERNFS` of `include/linux/exportfs.h`.
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with room for the one kind that kernfs uses.
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// Opens the directory of cgroup `id`, `mount` being any directory of the cgroup2 mount. Needs `CAP_DAC_READ_SEARCH`.
///
/// # Errors
/// `ESTALE` when the cgroup was removed.
pub fn open_by_id(mount: BorrowedFd<'_>, id: u64) -> Result<OwnedFd, Errno> {
    let mut handle = KernfsHandle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id,
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // SAFETY: the struct begins as `struct file_handle` does and `bytes` tells the room behind it; it outlives the call.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast::<libc::file_handle>(),
            flags.bits(),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the call above made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The path by which our own mount namespace knows an open directory.
///
/// # Errors
/// The errno of `readlink(2)`.
pub fn path_of(dir: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    Ok(nix::fcntl::readlink(link.as_str())?.into())
}
