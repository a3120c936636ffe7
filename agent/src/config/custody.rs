//! Whose hands a file was in. A configuration file is accepted when nobody but root could have written it or have put
//! another in its place: each directory on the way is opened by descriptor, without following a link, and judged.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// Longest file, in bytes.
pub const SIZE_LIMIT: u64 = 16 << 20;

/// Why a file is not accepted, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// It isn't there, or can't be opened.
    #[error("{0}: {1}")]
    Open(PathBuf, #[source] Errno),
    /// It, or a directory on the way, is a symbolic link.
    #[error("{0} is a symbolic link: whoever owns the link chooses the file; name the file itself")]
    Link(PathBuf),
    /// The path goes up.
    #[error("{0} has `..` in it: write the path without")]
    Upwards(PathBuf),
    /// Somebody else owns it.
    #[error("{0} belongs to user {1}, not root: `chown root {0}`")]
    Owner(PathBuf, u32),
    /// Somebody else can write it.
    #[error("{0} can be written by others (mode {1:04o}): `chmod go-w {0}`")]
    Writable(PathBuf, u32),
    /// A directory, a pipe, a device.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Longer than [`SIZE_LIMIT`].
    #[error("{0} is longer than {SIZE_LIMIT} bytes")]
    TooLong(PathBuf),
    /// Its bytes are no text.
    #[error("{0} is not UTF-8")]
    NotText(PathBuf),
    /// It can't be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
}

/// Reads a file whose custody is good.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(path: &Path) -> Result<String, CustodyError> {
    let (absolute, fd) = open_file(path)?;
    contents(&absolute, fd)
}

/// Opens a file whose custody is good.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn file(path: &Path) -> Result<OwnedFd, CustodyError> {
    open_file(path).map(|(_, fd)| fd)
}

fn open_file(path: &Path) -> Result<(PathBuf, OwnedFd), CustodyError> {
    let absolute = std::path::absolute(path).map_err(|e| CustodyError::Read(path.into(), e))?;
    let folder = directory(absolute.parent().unwrap_or(Path::new("/")))?;
    let name = absolute
        .file_name()
        .ok_or_else(|| CustodyError::NotAFile(absolute.clone()))?;
    // Non-blocking: opening somebody's pipe must not hang the guard.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&folder, name, flags, Mode::empty()).map_err(|e| refused(&absolute, e))?;
    let is = fstat(&fd).map_err(|e| CustodyError::Open(absolute.clone(), e))?;
    if kind(&is) != SFlag::S_IFREG {
        return Err(CustodyError::NotAFile(absolute));
    }
    judge(&absolute, &is)?;
    Ok((absolute, fd))
}

/// Opens a directory, every one on the way judged.
///
/// # Errors
/// The first thing that is wrong on the way.
pub fn directory(path: &Path) -> Result<OwnedFd, CustodyError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut so_far = PathBuf::from("/");
    let mut dir =
        open("/", flags, Mode::empty()).map_err(|e| CustodyError::Open(so_far.clone(), e))?;
    judge_directory(&so_far, &dir)?;
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                so_far.push(name);
                dir = openat(&dir, name, flags, Mode::empty())
                    .map_err(|e| refused_directory(&so_far, &dir, name, e))?;
                judge_directory(&so_far, &dir)?;
            }
            Component::ParentDir => return Err(CustodyError::Upwards(path.into())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(dir)
}

fn judge_directory(path: &Path, dir: &OwnedFd) -> Result<(), CustodyError> {
    let is = fstat(dir).map_err(|e| CustodyError::Open(path.into(), e))?;
    // In a sticky directory (/tmp) others can add, but not replace what is root's.
    let sticky = is.st_mode & Mode::S_ISVTX.bits() != 0 && is.st_uid == 0;
    if sticky { Ok(()) } else { judge(path, &is) }
}

fn judge(path: &Path, is: &FileStat) -> Result<(), CustodyError> {
    if is.st_uid != 0 {
        return Err(CustodyError::Owner(path.into(), is.st_uid));
    }
    if is.st_mode & (Mode::S_IWGRP | Mode::S_IWOTH).bits() != 0 {
        return Err(CustodyError::Writable(path.into(), is.st_mode & 0o7777));
    }
    Ok(())
}

fn kind(is: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(is.st_mode) & SFlag::S_IFMT
}

fn refused(path: &Path, errno: Errno) -> CustodyError {
    match errno {
        Errno::ELOOP => CustodyError::Link(path.into()),
        _ => CustodyError::Open(path.into(), errno),
    }
}

/// `O_DIRECTORY` with `O_NOFOLLOW` answers `ENOTDIR` for a link: look, to name the real reason.
fn refused_directory(
    path: &Path,
    parent: &OwnedFd,
    name: &std::ffi::OsStr,
    errno: Errno,
) -> CustodyError {
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    match nix::sys::stat::fstatat(parent, name, flags) {
        Ok(is) if kind(&is) == SFlag::S_IFLNK => CustodyError::Link(path.into()),
        _ => CustodyError::Open(path.into(), errno),
    }
}

fn contents(path: &Path, fd: OwnedFd) -> Result<String, CustodyError> {
    let mut bytes = vec![];
    let read = File::from(fd)
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| CustodyError::Read(path.into(), e))?;
    if read as u64 > SIZE_LIMIT {
        return Err(CustodyError::TooLong(path.into()));
    }
    String::from_utf8(bytes).map_err(|_| CustodyError::NotText(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// Below a directory that is root's alone: these tests need root, as `run` does.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/root").unwrap()
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_of_roots_is_read() {
        let folder = folder();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "x = 1").unwrap();
        assert_eq!(read(&file).unwrap(), "x = 1");
        let dotted = folder.path().join(".").join("a.toml");
        assert_eq!(read(&dotted).unwrap(), "x = 1");
    }

    #[test]
    fn others_files_and_writable_files_are_refused() {
        let folder = folder();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "").unwrap();
        for bad in [0o620, 0o602, 0o666] {
            mode(&file, bad);
            assert!(
                matches!(read(&file), Err(CustodyError::Writable(..))),
                "{bad:o}"
            );
        }
        mode(&file, 0o644);
        assert!(read(&file).is_ok());
        chown(&file, Some(65534), None).unwrap();
        assert!(matches!(read(&file), Err(CustodyError::Owner(_, 65534))));
    }

    #[test]
    fn directories_on_the_way_count_as_well() {
        let folder = folder();
        let below = folder.path().join("d");
        std::fs::create_dir(&below).unwrap();
        let file = below.join("a.toml");
        std::fs::write(&file, "").unwrap();
        mode(&below, 0o777);
        assert!(matches!(read(&file), Err(CustodyError::Writable(..))));
        mode(&below, 0o1777);
        assert!(
            read(&file).is_ok(),
            "sticky: nobody can replace what is root's"
        );
        mode(&below, 0o755);
        chown(&below, Some(65534), None).unwrap();
        assert!(matches!(read(&file), Err(CustodyError::Owner(..))));
    }

    #[test]
    fn links_are_refused_wherever_they_are() {
        let folder = folder();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("a.toml"), "").unwrap();
        symlink(&real, folder.path().join("link")).unwrap();
        symlink("a.toml", real.join("b.toml")).unwrap();
        for path in [folder.path().join("link/a.toml"), real.join("b.toml")] {
            assert!(
                matches!(read(&path), Err(CustodyError::Link(_))),
                "{path:?}"
            );
        }
        assert!(matches!(
            read(&real.join("../real/a.toml")),
            Err(CustodyError::Upwards(_))
        ));
    }

    #[test]
    fn what_is_no_file_or_no_text_or_too_long_is_refused() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read(&pipe), Err(CustodyError::NotAFile(_))));
        assert!(matches!(
            read(folder.path()),
            Err(CustodyError::NotAFile(_))
        ));
        let file = folder.path().join("a.toml");
        std::fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read(&file), Err(CustodyError::NotText(_))));
        File::create(&file)
            .unwrap()
            .set_len(SIZE_LIMIT + 1)
            .unwrap();
        assert!(matches!(read(&file), Err(CustodyError::TooLong(_))));
        let gone = folder.path().join("gone.toml");
        assert!(matches!(
            read(&gone),
            Err(CustodyError::Open(_, Errno::ENOENT))
        ));
    }
}
