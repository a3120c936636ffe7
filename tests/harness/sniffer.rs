//! Who sees every frame of a network namespace, as a holder of CAP_NET_RAW can: whether something arrived, whatever it was.

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// A packet socket of one network namespace.
#[derive(Debug)]
pub struct Sniffer(OwnedFd);

impl Sniffer {
    /// Of the calling thread's namespace, from now on.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open() -> Result<Self> {
        let (family, kind) = (AddressFamily::Packet, SockType::Raw);
        let all = SockProtocol::EthAll;
        Ok(Self(socket(family, kind, SockFlag::SOCK_CLOEXEC, all)?))
    }

    /// Whether a frame with these bytes in it is there, or comes within `patience`. Frames before it are dropped.
    ///
    /// # Errors
    /// When reading fails.
    pub fn sees(&self, bytes: &[u8], patience: Duration) -> Result<bool> {
        Ok(self.sees_each(&[bytes], patience)? == [true])
    }

    /// Which of these are in frames that are there, or come within `patience`; it ends when all have come. Frames before that are
    /// dropped.
    ///
    /// # Errors
    /// When reading fails.
    pub fn sees_each(&self, wanted: &[&[u8]], patience: Duration) -> Result<Vec<bool>> {
        let deadline = Instant::now() + patience;
        let mut frame = [0; 2048];
        let mut seen = vec![false; wanted.len()];
        loop {
            if seen.iter().all(|seen| *seen) {
                return Ok(seen);
            }
            match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    for (seen, bytes) in seen.iter_mut().zip(wanted) {
                        *seen |= frame[..length].windows(bytes.len()).any(|w| w == *bytes);
                    }
                }
                Err(Errno::EAGAIN) if Instant::now() > deadline => return Ok(seen),
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
