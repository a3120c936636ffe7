//! Sealed anonymous files: how the guard shows the proxy a text that neither can change afterwards.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A memfd with these contents, sealed against every change.
///
/// # Errors
/// Of the calls that make, write and seal it.
pub fn sealed(name: &str, contents: &[u8]) -> std::io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(contents)?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Reads a received file to its end, at most `limit` bytes. It comes standing at its start, as [`sealed`] leaves it.
///
/// # Errors
/// Of the read; `InvalidData` where it is longer than `limit`.
pub fn read(fd: OwnedFd, limit: usize) -> std::io::Result<Vec<u8>> {
    let file = File::from(fd);
    let mut contents = Vec::new();
    let read = file.take(limit as u64 + 1).read_to_end(&mut contents)?;
    if read > limit {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_back_and_cannot_be_written() {
        let fd = sealed("policy", b"text").unwrap();
        let mut file = File::from(fd.try_clone().unwrap());
        assert!(file.write_all(b"other").is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(read(fd, 4).unwrap(), b"text");
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let fd = sealed("policy", b"text").unwrap();
        assert_eq!(
            read(fd, 3).unwrap_err().kind(),
            std::io::ErrorKind::InvalidData
        );
    }
}
