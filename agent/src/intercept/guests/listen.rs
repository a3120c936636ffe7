//! A guest's own listeners: bound to the interface at which its packets reach the host's IP, on a port of their own, and
//! telling which guest it is by nothing else. And the reading of those facts from an accepted socket.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
    SockaddrStorage, bind, getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};

use crate::sys::sockopt::{bind_to_device, local_port};

/// Ports that are tried until one is free in both families and was never another guest's.
const ATTEMPTS: usize = 16;

/// The listeners of one guest.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) port: u16,
    pub(super) v4: OwnedFd,
    /// None where IPv6 is off.
    pub(super) v6: Option<OwnedFd>,
}

impl Listeners {
    /// Opens both at the interface `ingress`. `used`: ports that have been a guest's in this run: an accepted socket of that
    /// guest may still be somewhere, and is known by its port.
    pub(super) fn open(ingress: u32, used: &mut BTreeSet<u16>) -> io::Result<Self> {
        for _ in 0..ATTEMPTS {
            let v4 = open(ingress, &SockaddrIn::new(0, 0, 0, 0, 0))?;
            let port = local_port(v4.as_fd())?.unwrap_or_default();
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let v6 = match (used.insert(port), any) {
                (true, SocketAddr::V6(any)) => open(ingress, &SockaddrIn6::from(any)),
                _ => continue,
            };
            let v6 = match v6 {
                Ok(v6) => Some(v6),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
                Err(error) => return Err(error),
            };
            return Ok(Self { port, v4, v6 });
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Ends them for everyone who holds them.
    pub(super) fn close(&self) {
        for fd in std::iter::once(&self.v4).chain(&self.v6) {
            // It has no connection that could fail to end.
            let _closed_already = shutdown(fd.as_raw_fd(), Shutdown::Both);
        }
    }
}

fn open(ingress: u32, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let family = address.family().unwrap_or(AddressFamily::Inet);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind_to_device(fd.as_fd(), ingress)?;
    // What tells it from a socket that anybody could put in its place: see the rules.
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    bind(fd.as_raw_fd(), address)?;
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(fd)
}

/// Where the peer of an accepted socket wanted to go, before its packets were redirected here: conntrack's word.
///
/// # Errors
/// `ENOENT` where nothing was redirected.
pub(crate) fn dialled(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    if own.family() == Some(AddressFamily::Inet6) {
        let v6 = getsockopt(&socket, sockopt::Ip6tOriginalDst)?;
        let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        return Ok((IpAddr::V6(address), u16::from_be(v6.sin6_port)).into());
    }
    let v4 = getsockopt(&socket, sockopt::OriginalDst)?;
    let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
    Ok((IpAddr::V4(address), u16::from_be(v4.sin_port)).into())
}
