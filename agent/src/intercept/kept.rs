//! Listeners of a former run that come back from the service manager's store. What a descriptor is called there is a hint; what it
//! *is* the kernel says: a listening socket, at the address that we would bind, with our mark in a map that a former run has
//! pinned, in the network namespace of its own cookie. All else is refused, and ended where it listens, for it would keep our port.
//!
//! Must never: serve on a socket that a former guard has not marked; believe a name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, io};

use imds_guard_ebpf::{ISSUER_MARK, LISTENER_MARK};
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::{Shutdown, getsockopt, shutdown};

use super::Listeners;
use crate::sys::{bpf, sockopt};

/// A descriptor that came back, and what it is called.
#[derive(Debug)]
pub struct Kept {
    /// The store's name for it.
    pub name: String,
    /// It.
    pub fd: OwnedFd,
}

/// What is usable of it, and what is not.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Callers' listeners, by the cookie of their network namespace.
    pub(super) spaces: BTreeMap<u64, Pair>,
    /// Names of what was refused, and why.
    pub(super) refused: Vec<(String, Refused)>,
}

/// The listeners of one namespace, as far as they came back.
#[derive(Debug, Default)]
pub(super) struct Pair {
    pub(super) v4: Option<OwnedFd>,
    pub(super) v6: Option<OwnedFd>,
}

impl Pair {
    /// Both as they are.
    ///
    /// # Errors
    /// Without one over IPv4, which each namespace has: the rest is ended.
    pub(super) fn into_listeners(self) -> io::Result<Arc<Listeners>> {
        let Some(v4) = self.v4 else {
            self.v6.iter().for_each(|v6| end(v6.as_fd()));
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok(Arc::new(Listeners {
            netns_cookie: sockopt::netns_cookie(v4.as_fd())?,
            v4,
            v6: self.v6,
        }))
    }
}

/// Why a descriptor that came back is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is no listening TCP socket (any more).
    NoListener,
    /// It listens where we don't.
    Elsewhere(Option<SocketAddr>),
    /// No guard has marked it, or the map that knows it is gone.
    Unmarked,
    /// There is one for that namespace and family already.
    Twice,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener => f.write_str("it is no listening socket"),
            Self::Elsewhere(None) => f.write_str("it has no address"),
            Self::Elsewhere(Some(at)) => write!(f, "it listens on {at}, where we don't"),
            Self::Unmarked => f.write_str("no guard of this boot has marked it"),
            Self::Twice => f.write_str("there is another for the same place"),
        }
    }
}

/// Sorts callers' listeners out of `kept`. `marks`: the maps of marks that former runs have pinned.
pub(super) fn sorted(kept: Vec<Kept>, port: u16, marks: &[OwnedFd]) -> Sorted {
    let mut sorted = Sorted::default();
    for Kept { name, fd } in kept {
        let place = place(fd.as_fd(), port).and_then(|place| {
            is_marked(fd.as_fd(), marks, LISTENER_MARK)
                .then_some(place)
                .ok_or(Refused::Unmarked)
        });
        let refused = match place {
            Ok((cookie, address)) => {
                let pair = sorted.spaces.entry(cookie).or_default();
                let slot = if address.is_ipv4() {
                    &mut pair.v4
                } else {
                    &mut pair.v6
                };
                if slot.is_none() {
                    *slot = Some(fd);
                    continue;
                }
                // Perhaps the same socket twice: it must not be shut down.
                Refused::Twice
            }
            Err(why) => {
                end(fd.as_fd());
                why
            }
        };
        sorted.refused.push((name, refused));
    }
    sorted
}

/// The issuer's listener, if `kept` is that.
///
/// # Errors
/// Why it isn't; it is ended then.
pub(super) fn issuer(
    kept: Kept,
    address: SocketAddr,
    marks: &[OwnedFd],
) -> Result<OwnedFd, Refused> {
    let fd = kept.fd;
    let found = match listening(fd.as_fd()) {
        Ok(at) if at != address => Err(Refused::Elsewhere(Some(at))),
        Ok(_) if !is_marked(fd.as_fd(), marks, ISSUER_MARK) => Err(Refused::Unmarked),
        Ok(_) => return Ok(fd),
        Err(why) => Err(why),
    };
    end(fd.as_fd());
    found
}

/// Where a callers' listener is: its namespace and address.
fn place(fd: BorrowedFd<'_>, port: u16) -> Result<(u64, IpAddr), Refused> {
    let at = listening(fd)?;
    let ours = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    if !ours.contains(&at) {
        return Err(Refused::Elsewhere(Some(at)));
    }
    let cookie = sockopt::netns_cookie(fd).map_err(|_| Refused::NoListener)?;
    Ok((cookie, at.ip()))
}

/// The address of a socket that listens.
fn listening(fd: BorrowedFd<'_>) -> Result<SocketAddr, Refused> {
    if !getsockopt(&fd, AcceptConn).unwrap_or(false) {
        return Err(Refused::NoListener);
    }
    sockopt::own(fd).map_err(|_| Refused::Elsewhere(None))
}

fn is_marked(fd: BorrowedFd<'_>, marks: &[OwnedFd], mark: u32) -> bool {
    let says = |map: &OwnedFd| matches!(bpf::lookup_u32(map.as_fd(), fd), Ok(Some(m)) if m == mark);
    marks.iter().any(says)
}

/// Ends what listens, in every process that holds it: the store then drops it by itself.
fn end(fd: BorrowedFd<'_>) {
    if let Err(errno) = shutdown(fd.as_raw_fd(), Shutdown::Both) {
        // What doesn't listen isn't in our way.
        tracing::debug!(%errno, "it did not listen");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn kept(fd: impl Into<OwnedFd>) -> Kept {
        Kept {
            name: "x".into(),
            fd: fd.into(),
        }
    }

    #[test]
    fn what_is_no_listener_of_ours_is_refused_and_no_longer_listens() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = stranger.local_addr().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let all = vec![kept(stranger.try_clone().unwrap()), kept(file)];
        let sorted = sorted(all, at.port(), &[]);
        assert!(sorted.spaces.is_empty());
        let why: Vec<_> = sorted.refused.into_iter().map(|(_, why)| why).collect();
        assert_eq!(why, [Refused::Unmarked, Refused::NoListener]);
        assert!(!getsockopt(&stranger, AcceptConn).unwrap());
    }

    #[test]
    fn another_port_is_elsewhere() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = stranger.local_addr().unwrap();
        let sorted = sorted(vec![kept(stranger)], 1, &[]);
        assert_eq!(sorted.refused[0].1, Refused::Elsewhere(Some(at)));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(issuer(kept(other), at, &[]).is_err());
    }
}
