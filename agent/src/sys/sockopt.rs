//! What a socket tells of itself, where nix lacks it.

use std::{
    io,
    mem::size_of,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrStorage, getpeername, getsockname};

/// The cookie of the network namespace that `socket` belongs to (`SO_NETNS_COOKIE`, kernel 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on older kernels, `ENOTSOCK`.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: a live buffer of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The index of the interface that `socket` is bound to, 0 where to none.
///
/// # Errors
/// `ENOTSOCK`.
pub fn bound_interface(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut index: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: a live buffer of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw mut index).cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    u32::try_from(index).map_err(|_| Errno::ENODEV)
}

/// `enum` of `include/net/tcp_states.h`: both directions open; the peer has sent its last byte but may read still.
const CONNECTED: [u8; 2] = [1, 8];

/// Whether a TCP socket's peer is connected now: a peer that has only said that it sends no more still is.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTSOCK` for what is no TCP socket.
pub fn is_connected(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // The first byte of `struct tcp_info`; the kernel writes as much as there is room for.
    let mut state = 0u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: a live buffer of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(CONNECTED.contains(&state))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Binds `socket` to the device with this index in its network namespace (`SO_BINDTOIFINDEX`, kernel 5.0).
///
/// # Errors
/// `ENODEV` if there is none.
pub fn bind_to_device(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // SAFETY: a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw const index).cast(),
            libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The address and port at the other end.
///
/// # Errors
/// `ENOTCONN`; `EAFNOSUPPORT` for what has none.
pub fn peer(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    plain(getpeername(socket.as_raw_fd())?)
}

/// The address and port at our end.
///
/// # Errors
/// `ENOTSOCK`; `EAFNOSUPPORT` for what has none.
pub fn own(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    plain(getsockname(socket.as_raw_fd())?)
}

fn plain(address: SockaddrStorage) -> Result<SocketAddr, Errno> {
    let v4 = address.as_sockaddr_in().map(|v4| (*v4).into());
    let v6 = || address.as_sockaddr_in6().map(|v6| (*v6).into());
    v4.map(SocketAddr::V4)
        .or_else(|| v6().map(SocketAddr::V6))
        .ok_or(Errno::EAFNOSUPPORT)
}

/// The port at our end; `None` for what has none.
///
/// # Errors
/// `ENOTSOCK`.
pub fn local_port(socket: BorrowedFd<'_>) -> io::Result<Option<u16>> {
    let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = own.as_sockaddr_in().map(SockaddrIn::port);
    Ok(v4.or_else(|| own.as_sockaddr_in6().map(SockaddrIn6::port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    #[test]
    fn a_peer_is_connected_until_it_closes_both_ways() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let caller = TcpStream::connect(address).unwrap();
        let mut accepted = listener.accept().unwrap().0;
        assert!(is_connected(accepted.as_fd()).unwrap());
        assert_eq!(local_port(accepted.as_fd()).unwrap(), Some(address.port()));
        assert_ne!(local_port(caller.as_fd()).unwrap(), Some(address.port()));
        caller.shutdown(Shutdown::Write).unwrap();
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0);
        assert!(is_connected(accepted.as_fd()).unwrap(), "it may read still");
        accepted.shutdown(Shutdown::Both).unwrap();
        assert!(!is_connected(accepted.as_fd()).unwrap());
        assert!(!is_connected(listener.as_fd()).unwrap());
    }

    #[test]
    fn an_accepted_socket_is_bound_as_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(bound_interface(listener.as_fd()).unwrap(), 0);
        // The loopback is the first interface of each network namespace.
        bind_to_device(listener.as_fd(), 1).unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        assert_eq!(bound_interface(accepted.as_fd()).unwrap(), 1);
        assert!(bind_to_device(listener.as_fd(), u32::MAX).is_err());
    }

    #[test]
    fn what_is_no_tcp_socket_is_an_error() {
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_connected(unix.as_fd()).is_err());
        assert_eq!(local_port(unix.as_fd()).unwrap(), None);
        assert!(local_port(io::stdin().as_fd()).is_err());
    }
}
