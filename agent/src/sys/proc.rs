//! Reads of `/proc` through directory descriptors. A `/proc/PID` directory stays bound to its process: once that is
//! gone, reads answer `ESRCH`, never the successor's facts. Counts its reads, so that a cache can prove itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};

/// Files of `/proc` that we read are far smaller; one that is longer is not understood.
const FILE_LIMIT: u64 = 256 * 1024;

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW);

/// The `/proc` mount (or, in tests, a directory that looks like it).
#[derive(Debug)]
pub struct Proc {
    root: OwnedFd,
    opened: AtomicU64,
}

/// The directory of one process.
#[derive(Debug)]
pub struct ProcessDir {
    dir: OwnedFd,
}

impl Proc {
    /// The machine's own.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> Result<Self, Errno> {
        Self::at(std::path::Path::new("/proc"))
    }

    /// Another directory with the same layout.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn at(root: &std::path::Path) -> Result<Self, Errno> {
        Ok(Self {
            root: nix::fcntl::open(root, DIRECTORY, Mode::empty())?,
            opened: AtomicU64::new(0),
        })
    }

    /// Opens the directory of one process; every read of a process's facts begins with this.
    ///
    /// # Errors
    /// `ENOENT` where there is no such process.
    pub fn process(&self, tgid: u32) -> Result<ProcessDir, Errno> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let dir = openat(
            &self.root,
            tgid.to_string().as_str(),
            DIRECTORY,
            Mode::empty(),
        )?;
        Ok(ProcessDir { dir })
    }

    /// How many process directories were opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

impl ProcessDir {
    /// The contents of one file, e.g. `stat`.
    ///
    /// # Errors
    /// The errno; `ESRCH` when the process is gone; `EFBIG` where the file is unreasonably long.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Errno> {
        let fd = openat(
            &self.dir,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut contents = Vec::new();
        let read = File::from(fd)
            .take(FILE_LIMIT + 1)
            .read_to_end(&mut contents)
            .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        if read as u64 > FILE_LIMIT {
            return Err(Errno::EFBIG);
        }
        Ok(contents)
    }

    /// Opens the file that a link such as `exe` leads to (the very inode, not a path).
    ///
    /// # Errors
    /// The errno; `EACCES` without `CAP_SYS_PTRACE`.
    pub fn open_link(&self, name: &str) -> Result<OwnedFd, Errno> {
        openat(
            &self.dir,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
    }

    /// What a link such as `exe` says. Names from here are for humans, or must be verified by inode.
    ///
    /// # Errors
    /// The errno.
    pub fn link(&self, name: &str) -> Result<PathBuf, Errno> {
        Ok(readlinkat(&self.dir, name)?.into())
    }

    /// `stat(2)` of what a link such as `ns/user` leads to: its inode is the namespace's identity.
    ///
    /// # Errors
    /// The errno.
    pub fn stat_link(&self, name: &str) -> Result<FileStat, Errno> {
        fstatat(&self.dir, name, AtFlags::empty())
    }

    /// A second descriptor of this directory, to pass on.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.dir.try_clone()
    }
}

impl AsFd for ProcessDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl From<OwnedFd> for ProcessDir {
    /// A `/proc/PID` directory that came over a socket.
    fn from(dir: OwnedFd) -> Self {
        Self { dir }
    }
}

impl From<ProcessDir> for OwnedFd {
    fn from(process: ProcessDir) -> Self {
        process.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_directory_outlives_its_process_as_a_dead_end() {
        let proc = Proc::open().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let dir = proc.process(child.id()).unwrap();
        assert!(!dir.read("stat").unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(
            dir.read("stat"),
            Err(Errno::ESRCH | Errno::ENOENT)
        ));
        assert_eq!(proc.opened(), 1);
    }

    #[test]
    fn the_exe_link_opens_the_running_image() {
        let dir = Proc::open().unwrap().process(std::process::id()).unwrap();
        let ours = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let stat = nix::sys::stat::fstat(dir.open_link("exe").unwrap()).unwrap();
        assert_eq!(stat.st_ino, std::os::unix::fs::MetadataExt::ino(&ours));
    }
}
