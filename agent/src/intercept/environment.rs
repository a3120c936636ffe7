//! What the host offers: where cgroup v2 is, whether this process is inside the attach root, whether pins can be kept.
//!
//! Reads only. Must never mount anything: a cgroup2 mounted afresh is the machine's own hierarchy.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::InterceptError;

/// A mount of the cgroup v2 hierarchy, from `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup2 {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Which directory of the hierarchy is mounted there (`/` unless it is a bind mount or another namespace's).
    pub root: PathBuf,
}

impl Cgroup2 {
    /// Finds it.
    ///
    /// # Errors
    /// [`InterceptError::NoCgroup2`].
    pub fn find() -> Result<Self, InterceptError> {
        let text = fs::read_to_string("/proc/self/mountinfo")
            .map_err(InterceptError::system("reading /proc/self/mountinfo"))?;
        Self::parse(&text).ok_or(InterceptError::NoCgroup2)
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            // man 5 proc: id parent major:minor root mount-point options … - fstype source super-options
            let (mount, filesystem) = line.split_once(" - ")?;
            if filesystem.split(' ').next() != Some("cgroup2") {
                return None;
            }
            let mut fields = mount.split(' ').skip(3);
            let root = unescape(fields.next()?);
            let mount_point = unescape(fields.next()?);
            Some(Self { mount_point, root })
        })
    }

    /// The directory of the cgroup that this process is in.
    ///
    /// # Errors
    /// [`InterceptError::NoCgroup2`] if `/proc/self/cgroup` has no v2 line.
    pub fn own_directory(&self) -> Result<PathBuf, InterceptError> {
        let text = fs::read_to_string("/proc/self/cgroup")
            .map_err(InterceptError::system("reading /proc/self/cgroup"))?;
        self.directory(&text).ok_or(InterceptError::NoCgroup2)
    }

    /// The directory of the cgroup that a `/proc/PID/cgroup` names; `None` if it has no v2 line.
    #[must_use]
    pub fn directory(&self, cgroups: &str) -> Option<PathBuf> {
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = Path::new(path)
            .strip_prefix(&self.root)
            .unwrap_or_else(|_| Path::new(path.trim_start_matches('/')));
        Some(self.mount_point.join(below))
    }
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or("");
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

/// The attach root: `configured`, or the mount's root. Checked to be cgroup v2 and to contain this process, for the
/// programs run for sockets by the cgroup in which they were created, the accepted ones included.
///
/// # Errors
/// [`InterceptError::NoCgroup2`], [`InterceptError::NotCgroup2`], [`InterceptError::OutsideRoot`].
pub fn attach_root(configured: Option<&Path>) -> Result<PathBuf, InterceptError> {
    let mount = Cgroup2::find()?;
    let root = configured.unwrap_or(&mount.mount_point);
    let not_cgroup2 = || InterceptError::NotCgroup2 {
        path: root.to_owned(),
    };
    let root = fs::canonicalize(root).map_err(|_| not_cgroup2())?;
    let filesystem = statfs(&root).map_err(|_| not_cgroup2())?;
    if filesystem.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(not_cgroup2());
    }
    let own = mount.own_directory()?;
    let own = fs::canonicalize(&own).unwrap_or(own);
    if own.starts_with(&root) {
        Ok(root)
    } else {
        Err(InterceptError::OutsideRoot { own, root })
    }
}

/// Whether our monotonic clock is the one that the kernel's programs read: the lease is a time of it. In a time namespace it may be
/// another, and a lease would end at once or not for days.
///
/// # Errors
/// [`InterceptError::OtherClock`].
pub fn kernels_clock() -> Result<(), InterceptError> {
    // Without the file the kernel has no such namespaces.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    if is_kernels_clock(&offsets) {
        Ok(())
    } else {
        Err(InterceptError::OtherClock)
    }
}

fn is_kernels_clock(offsets: &str) -> bool {
    let numbers = |line: &str| line.split_whitespace().skip(1).all(|number| number == "0");
    offsets.lines().all(numbers)
}

/// The cgroup id of a cgroup v2 directory: its inode number.
///
/// # Errors
/// If it can't be looked at.
pub fn cgroup_id(directory: &Path) -> Result<u64, InterceptError> {
    fs::metadata(directory)
        .map(|m| m.ino())
        .map_err(InterceptError::system("looking at the cgroup"))
}

/// Makes the pin directory if need be, with mode 0700: a pinned map is as good as its path.
///
/// # Errors
/// [`InterceptError::NoBpffs`], [`InterceptError::NotPermitted`].
pub fn pin_directory(path: &Path) -> Result<(), InterceptError> {
    let exists = path.ancestors().find(|p| p.exists()).unwrap_or(path);
    let on_bpffs = statfs(exists).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
    if !on_bpffs {
        return Err(InterceptError::NoBpffs {
            path: path.to_owned(),
        });
    }
    make_private(path).map_err(InterceptError::system("making the pin directory"))
}

/// `mkdir -p` with mode 0700, tightened if it was there. Never somebody else's: who owns a directory removes what is in it, and a
/// bpffs may be one that anybody can write to.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        let whose = format!(
            "{} is owned by uid {}: remove it, after a look at who made it",
            path.display(),
            found.uid()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, whose));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_with_an_offset_is_not_the_kernels() {
        let plain = "monotonic           0         0\nboottime            0         0\n";
        assert!(is_kernels_clock(plain) && is_kernels_clock(""));
        assert!(!is_kernels_clock(&plain.replacen(" 0", " -1", 1)));
        assert!(!is_kernels_clock("boottime 0 5\n"));
    }

    #[test]
    fn finds_cgroup2_wherever_it_is_mounted() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            Cgroup2::parse(hybrid).unwrap().mount_point,
            Path::new("/sys/fs/cgroup/unified")
        );
        let bind = "9 1 0:27 /a\\040b /mnt/c\\134d rw - cgroup2 none rw";
        let found = Cgroup2::parse(bind).unwrap();
        assert_eq!(found.root, Path::new("/a b"));
        assert_eq!(found.mount_point, Path::new("/mnt/c\\d"));
    }

    #[test]
    fn no_cgroup2_is_none() {
        assert_eq!(
            Cgroup2::parse("30 24 0:26 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu"),
            None
        );
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            pin_directory(&dir.path().join("pins")),
            Err(InterceptError::NoBpffs { .. })
        ));
    }

    #[test]
    fn an_ordinary_directory_is_no_attach_root() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            attach_root(Some(dir.path())),
            Err(InterceptError::NotCgroup2 { .. } | InterceptError::NoCgroup2)
        ));
    }
}
