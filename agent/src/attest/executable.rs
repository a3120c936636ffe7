//! `unix:path` and `unix:sha256`: of the very inode that the kernel recorded at `connect()`, through one open descriptor.
//! A process that has executed something else since has neither: never the successor's.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::{CallerRecord, missing};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat, major, minor, stat};

use crate::sys::proc::ProcessDir;

/// What this attestor speaks of.
pub const KEYS: &[Key] = &[Key::UnixPath, Key::UnixSha256];

/// Largest executable that is hashed: it takes the guard's time.
const HASH_LIMIT: i64 = 512 << 20;

/// And for how long it is read at most: everybody else waits meanwhile.
const HASH_TIME: Duration = Duration::from_secs(10);

/// Most digests that are kept.
const CACHE_LIMIT: usize = 1024;

/// A state of a file: device, inode, size, mtime, ctime.
type Stamp = (u64, u64, i64, i64, i64, i64, i64);

/// Digests of executables by the state of their file.
#[derive(Debug, Default)]
pub struct Hashes(HashMap<Stamp, Arc<str>>);

/// Adds path and, where `hashes` is given, digest.
pub fn attest(
    record: &CallerRecord,
    dir: &ProcessDir,
    hashes: Option<&mut Hashes>,
    out: &mut Selectors,
) {
    let (exe, is) = match is_recorded(dir, record) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return none(
                out,
                "the process has executed another program since it connected",
            );
        }
        Err(why) => return none(out, why),
    };
    match path(dir, &is) {
        Ok(Some(path)) => out.found(Key::UnixPath, path),
        // It has a name only in a mount namespace of its own: none that a host's policy could mean.
        Ok(None) => {}
        Err(why) => out.unavailable(Key::UnixPath, why),
    }
    match hashes.map(|hashes| hashes.digest(exe, &is)) {
        Some(Ok(digest)) => out.found(Key::UnixSha256, digest),
        Some(Err(why)) => out.unavailable(Key::UnixSha256, why),
        None => out.unavailable(Key::UnixSha256, "not computed: no rule names unix:sha256"),
    }
}

fn none(out: &mut Selectors, why: impl Into<Arc<str>>) {
    let why = why.into();
    for key in KEYS {
        out.unavailable(*key, Arc::clone(&why));
    }
}

/// The open executable when it is the recorded one, `None` when it is another.
///
/// # Errors
/// Why nobody can say.
pub fn is_recorded(
    dir: &ProcessDir,
    record: &CallerRecord,
) -> Result<Option<(OwnedFd, FileStat)>, String> {
    if !record.has(missing::EXE) {
        return Err("the kernel could not read the executable".to_owned());
    }
    let exe = dir
        .open_link("exe")
        .map_err(|errno| format!("/proc/PID/exe: {errno}"))?;
    let is = fstat(&exe).map_err(|errno| format!("fstat of the executable: {errno}"))?;
    let plain = is.st_ino == record.exe_inode && kernel_dev(is.st_dev) == record.exe_dev;
    let theirs =
        || String::from_utf8_lossy(&dir.read("mountinfo").unwrap_or_default()).into_owned();
    if plain || kernel_identity(&exe, &theirs()) == Some((record.exe_dev, record.exe_inode)) {
        Ok(Some((exe, is)))
    } else {
        Ok(None)
    }
}

/// Device and inode as the kernel itself knows them: on btrfs and overlayfs `stat(2)` shows others. `fdinfo` has inode
/// and mount, and `mountinfo` of whoever opened it by that mount the mount's device.
pub(crate) fn kernel_identity(exe: &OwnedFd, mounts: &str) -> Option<(u32, u64)> {
    let fdinfo = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", exe.as_raw_fd())).ok()?;
    let field = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    let (mount, inode) = (field("mnt_id:")?, field("ino:")?);
    Some((device_of(mounts, mount)?, inode))
}

/// The device of a mount, in the kernel's form, from the text of `mountinfo`.
fn device_of(mounts: &str, mount: u64) -> Option<u32> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse() != Ok(mount) {
            return None;
        }
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
    })
}

/// `dev_t` of user space in the kernel's form: `major << 20 | minor`.
pub fn kernel_dev(dev: u64) -> u32 {
    let (major, minor) = (major(dev), minor(dev));
    u32::try_from((major << 20) | minor).unwrap_or(0)
}

/// The path, where it leads to the same inode for us as for the caller.
fn path(dir: &ProcessDir, is: &FileStat) -> Result<Option<String>, String> {
    let link = dir
        .link("exe")
        .map_err(|errno| format!("/proc/PID/exe: {errno}"))?;
    match stat(&link) {
        Ok(here) if (here.st_dev, here.st_ino) == (is.st_dev, is.st_ino) => link
            .into_os_string()
            .into_string()
            .map(Some)
            .map_err(|_| "the executable's path is not UTF-8".to_owned()),
        Ok(_) => Ok(None),
        Err(Errno::ENOENT | Errno::ENOTDIR) if is.st_nlink == 0 => {
            Err("the executable was deleted or replaced".to_owned())
        }
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(format!("{}: {errno}", link.display())),
    }
}

impl Hashes {
    fn digest(&mut self, exe: OwnedFd, is: &FileStat) -> Result<Arc<str>, String> {
        let before = stamp(is);
        if let Some(digest) = self.0.get(&before) {
            return Ok(Arc::clone(digest));
        }
        if is.st_size > HASH_LIMIT {
            return Err(format!("the executable is larger than {HASH_LIMIT} bytes"));
        }
        let mut file = File::from(exe);
        let digest =
            sha256(&mut file, HASH_TIME).map_err(|e| format!("read the executable: {e}"))?;
        let after = fstat(&file).map_err(|e| format!("fstat of the executable: {e}"))?;
        if stamp(&after) != before {
            return Err("the executable changed while it was read".to_owned());
        }
        if self.0.len() >= CACHE_LIMIT {
            self.0.clear();
        }
        self.0.insert(before, Arc::clone(&digest));
        Ok(digest)
    }
}

fn stamp(is: &FileStat) -> Stamp {
    (
        is.st_dev,
        is.st_ino,
        is.st_size,
        is.st_mtime,
        is.st_mtime_nsec,
        is.st_ctime,
        is.st_ctime_nsec,
    )
}

fn sha256(file: &mut impl Read, limit: Duration) -> std::io::Result<Arc<str>> {
    let until = Instant::now() + limit;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        if Instant::now() > until {
            return Err(std::io::Error::other("it takes too long"));
        }
        context.update(&buffer[..read]);
    }
    let mut hex = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        // Writing to a String can't fail.
        let _infallible = write!(hex, "{byte:02x}");
    }
    Ok(hex.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_compared_in_the_kernels_form() {
        assert_eq!(kernel_dev(libc::makedev(8, 1)), 8 << 20 | 1);
        let mounts = "29 1 0:26 / /a rw - btrfs /dev/x rw\n30 1 8:1 / /b rw - ext4 /dev/y rw\n";
        assert_eq!(device_of(mounts, 29), Some(26));
        assert_eq!(device_of(mounts, 30), Some(8 << 20 | 1));
        assert_eq!(device_of(mounts, 31), None);
    }

    #[test]
    fn the_kernels_own_view_agrees_with_stat_on_a_plain_file_system() {
        let dir = crate::sys::proc::Proc::open()
            .unwrap()
            .process(std::process::id())
            .unwrap();
        let exe = dir.open_link("exe").unwrap();
        let mounts = String::from_utf8(dir.read("mountinfo").unwrap()).unwrap();
        let (_, inode) = kernel_identity(&exe, &mounts).unwrap();
        assert_eq!(inode, fstat(&exe).unwrap().st_ino);
    }

    #[test]
    fn digests_are_of_the_contents() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(
            sha256(&mut file, HASH_TIME).unwrap().as_ref(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_file_that_comes_too_slowly_is_given_up() {
        let endless = &mut std::io::repeat(0);
        let error = sha256(endless, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
