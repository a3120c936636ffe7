//! Seqpacket messages with descriptors: one `sendmsg` or `recvmsg` each. Received descriptors are close-on-exec from the
//! first moment, and all of them are owned (so closed) whatever the caller makes of the message.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockFlag, accept4, sendmsg};

/// Most descriptors that one of our messages carries.
pub const MAX_FDS: usize = 64;

/// Room for one control message with as many descriptors as we accept.
const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + MAX_FDS * size_of::<i32>()).div_ceil(8);

/// One received message. Its bytes are in the caller's buffer.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer are the message; 0 is the end of the connection.
    pub len: usize,
    /// Its descriptors, in order.
    pub fds: Vec<OwnedFd>,
    /// The message was longer than the buffer or had more descriptors than [`MAX_FDS`]: what is here is not all of it.
    pub truncated: bool,
}

/// Sends one message, never raising `SIGPIPE`.
///
/// # Errors
/// The errno; `EAGAIN` on a non-blocking socket whose peer is slow.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EMSGSIZE)
    }
}

/// Accepts one connection: non-blocking, close-on-exec.
///
/// # Errors
/// The errno; `EAGAIN` where nobody waits.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the call above made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Receives one message. (Not by nix: its iterator refuses a truncated control buffer, and the descriptors that the
/// kernel has already installed would leak; a peer could fill our table so.)
///
/// # Errors
/// The errno; `EAGAIN` on a non-blocking socket with nothing to read.
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    // u64 for the alignment that `cmsghdr` needs.
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `msghdr` is plain data for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: header, iov and both buffers outlive the call, and their lengths are theirs.
    let read =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let len = usize::try_from(Errno::result(read)?).map_err(|_| Errno::EIO)?;
    let cut = libc::MSG_TRUNC | libc::MSG_CTRUNC;
    let fds = descriptors(&header);
    Ok(Received {
        len,
        truncated: header.msg_flags & cut != 0 || fds.len() > MAX_FDS,
        fds,
    })
}

/// Takes ownership of every descriptor that came with a message.
fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `recvmsg` has filled in the control buffer and its length; the macros stay within them.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !cmsg.is_null() {
        // SAFETY: not null, so within the control buffer and aligned by CMSG_*.
        let head = unsafe { &*cmsg };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: pointer arithmetic within this control message.
            let data = unsafe { libc::CMSG_DATA(cmsg) }.cast::<i32>();
            let bytes = head.cmsg_len as usize - (data as usize - cmsg as usize);
            for index in 0..bytes / size_of::<i32>() {
                // SAFETY: `cmsg_len` covers this element; the kernel installed the descriptor for us and nobody else.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        cmsg = unsafe { libc::CMSG_NXTHDR(header, cmsg) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap()
    }

    #[test]
    fn bytes_and_descriptors_arrive_together_and_close_on_exec() {
        let (a, b) = pair();
        send(a.as_fd(), b"hello", &[a.as_fd(), b.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let got = recv(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(
            (&buffer[..got.len], got.fds.len(), got.truncated),
            (&b"hello"[..], 2, false)
        );
        for fd in &got.fds {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn a_longer_message_says_that_it_is_cut() {
        let (a, b) = pair();
        send(a.as_fd(), &[1; 32], &[]).unwrap();
        let got = recv(b.as_fd(), &mut [0; 16]).unwrap();
        assert!(got.truncated);
    }

    #[test]
    fn the_end_of_the_connection_is_an_empty_message() {
        let (a, b) = pair();
        drop(a);
        assert_eq!(recv(b.as_fd(), &mut [0; 16]).unwrap().len, 0);
        assert_eq!(send(b.as_fd(), b"x", &[]).unwrap_err(), Errno::EPIPE);
    }

    #[test]
    fn too_many_descriptors_are_told_and_do_not_leak() {
        let (a, b) = pair();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let many = vec![a.as_fd(); MAX_FDS + 20];
        let before = open();
        send(a.as_fd(), b"x", &many).unwrap();
        let got = recv(b.as_fd(), &mut [0; 4]).unwrap();
        assert!(got.truncated);
        drop(got);
        // Other tests of this binary run beside this one: allow for a few of theirs.
        assert!(
            open() < before + MAX_FDS / 2,
            "received descriptors were leaked"
        );
    }
}
