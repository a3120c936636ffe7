//! The listeners that steered connections arrive at: one on 127.0.0.1 and one on ::1 in each network namespace.
//!
//! A listener counts only once it is marked in the kernel's map; until then, and for anything else that sits on the
//! port, the kernel refuses.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use imds_guard_ebpf::{ISSUER_MARK, LISTENER_MARK};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6,
        SockaddrLike, bind, getsockopt, listen, setsockopt, shutdown, socket,
        sockopt::{AcceptConn, Ipv6V6Only, ReuseAddr},
    },
};

use super::InterceptError;
use super::kept::{self, Kept, Pair};
use crate::sys::{bpf, sockopt};

/// The listeners of one network namespace: non-blocking, close-on-exec, listening.
#[derive(Debug)]
pub struct Listeners {
    /// Cookie of the namespace, as in the records of its callers.
    pub netns_cookie: u64,
    /// On 127.0.0.1.
    pub v4: OwnedFd,
    /// On ::1; none where IPv6 is off or the loopback has no ::1: native IPv6 endpoints are refused there.
    pub v6: Option<OwnedFd>,
}

impl Listeners {
    /// Opens both in the calling thread's namespace, with their mark in each of `marks` before they bind: the programs that
    /// look there let nobody else have the port. What `kept` has of them is there already.
    pub(super) fn open(port: u16, marks: &[OwnedFd], kept: Pair) -> Result<Self, InterceptError> {
        let v4 = match kept.v4 {
            Some(fd) => fd,
            None => open(
                marks,
                AddressFamily::Inet,
                &SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
            )
            .map_err(|e| failed(e, port, "127.0.0.1"))?,
        };
        let open_v6 = || {
            open(
                marks,
                AddressFamily::Inet6,
                &SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)),
            )
        };
        let v6 = match kept.v6.map_or_else(open_v6, Ok) {
            Ok(fd) => Some(fd),
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => None,
            Err(e) => return Err(failed(e, port, "::1")),
        };
        let netns_cookie =
            sockopt::netns_cookie(v4.as_fd()).map_err(|error| match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) => InterceptError::missing("SO_NETNS_COOKIE".into()),
                _ => InterceptError::system("reading the namespace's cookie")(error),
            })?;
        Ok(Self {
            netns_cookie,
            v4,
            v6,
        })
    }

    /// Whether both still listen: whoever rules their namespace can destroy sockets in it.
    pub(super) fn listen(&self) -> bool {
        let mut both = std::iter::once(&self.v4).chain(&self.v6);
        both.all(|fd| getsockopt(fd, AcceptConn).unwrap_or(false))
    }

    /// Ends both in every process that holds them: nothing is steered to them any more, and their accept(2) fails.
    pub(super) fn shut_down(&self) {
        for listener in std::iter::once(&self.v4).chain(&self.v6) {
            if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
                // Somebody else has ended it before.
                tracing::debug!(%error, "a listener was down already");
            }
        }
    }

    /// Marks both: from now on the kernel steers to them.
    pub(super) fn mark(&self, listeners: &OwnedFd) -> Result<(), InterceptError> {
        for listener in std::iter::once(&self.v4).chain(&self.v6) {
            bpf::update_u32(listeners.as_fd(), listener.as_fd(), LISTENER_MARK)
                .map_err(InterceptError::system("marking a listener"))?;
        }
        Ok(())
    }
}

/// A listener of the issuer's documents: non-blocking, close-on-exec, listening. While programs of a former run are in
/// force, nobody else can have its port. `kept`: the former run's, if it came back.
///
/// # Errors
/// Those of socket(2), bind(2), listen(2) and of opening what is pinned in `pin_dir`.
pub fn for_issuer(address: SocketAddr, pin_dir: &Path, kept: Option<Kept>) -> io::Result<OwnedFd> {
    let marks = super::pins::listener_marks(pin_dir).map_err(io::Error::other)?;
    match kept.map(|kept| kept::issuer(kept, address, &marks)) {
        Some(Ok(fd)) => return Ok(fd),
        Some(Err(why)) => tracing::warn!("the issuer's listener that was kept is not used: {why}"),
        None => {}
    }
    let (family, at): (_, &dyn SockaddrLike) = match &address {
        SocketAddr::V4(v4) => (AddressFamily::Inet, &SockaddrIn::from(*v4)),
        SocketAddr::V6(v6) => (AddressFamily::Inet6, &SockaddrIn6::from(*v6)),
    };
    let fd = unbound(family)?;
    mark(&fd, &marks, ISSUER_MARK)?;
    bind(fd.as_raw_fd(), at)?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd)
}

fn mark(socket: &OwnedFd, marks: &[OwnedFd], value: u32) -> io::Result<()> {
    marks
        .iter()
        .try_for_each(|map| bpf::update_u32(map.as_fd(), socket.as_fd(), value))
}

/// Connections of a former run in TIME_WAIT must not keep the port; a live listener still does.
fn unbound(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    Ok(fd)
}

fn open(
    marks: &[OwnedFd],
    family: AddressFamily,
    address: &dyn SockaddrLike,
) -> Result<OwnedFd, Errno> {
    let fd = unbound(family)?;
    mark(&fd, marks, LISTENER_MARK)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), address)?;
    // As long as net.core.somaxconn allows: a full queue keeps connections in SYN_SENT and their handshake entries.
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(fd)
}

fn failed(errno: Errno, port: u16, address: &'static str) -> InterceptError {
    match errno {
        Errno::EADDRINUSE => InterceptError::PortTaken { port, address },
        other => InterceptError::System {
            what: format!("listening on {address} port {port}"),
            source: other.into(),
        },
    }
}
