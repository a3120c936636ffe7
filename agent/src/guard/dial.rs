//! A socket in a caller's place: in its network namespace, of its owner, with its mark, device and source address, so that
//! routes and firewall rules treat it as they would have treated the caller's own. Audit mode forwards over such sockets
//! alone: whoever was stopped before is stopped still, and whoever is asked sees who asks.
//!
//! What can't be made the same makes it fail, and is never left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use imds_guard_ebpf::{CallerRecord, missing};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getpeername, setsockopt, socket,
    sockopt as option,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::sys::{netns, sockopt};

/// What the upstream socket has to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    family: AddressFamily,
    owner: (Uid, Gid),
    mark: u32,
    device: u32,
    source: Option<IpAddr>,
}

/// Opens it for the caller on `accepted`, whose record is `record`: non-blocking, close-on-exec, not connected.
///
/// # Errors
/// `Unsupported` where the kernel did not see all that it takes; else the errno of what failed.
pub(super) fn in_place_of(record: &CallerRecord, accepted: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let shape = shape(record, source(accepted)?).ok_or(io::ErrorKind::Unsupported)?;
    let netns = netns::of_socket(accepted)?;
    let opened = netns::within(&netns, || open(&shape))??;
    if sockopt::netns_cookie(opened.as_fd())? == record.netns_cookie {
        Ok(opened)
    } else {
        Err(io::Error::other("a socket of another network namespace"))
    }
}

fn shape(record: &CallerRecord, source: Option<IpAddr>) -> Option<Shape> {
    if !record.has(missing::MARK | missing::REACH) {
        return None;
    }
    let (uid, gid) = if record.has(missing::OWNER) {
        (record.owner_uid, record.owner_gid)
    } else if record.has(missing::EFFECTIVE_IDS) {
        // MPTCP: its subflows belong to nobody, which no socket of ours can.
        (record.effective_uid, record.effective_gid)
    } else {
        return None;
    };
    let is_ipv4 = IpAddr::from(record.address).to_canonical().is_ipv4();
    Some(Shape {
        family: if is_ipv4 {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        },
        owner: (Uid::from_raw(uid), Gid::from_raw(gid)),
        mark: record.mark,
        device: record.device,
        source,
    })
}

/// The address that the caller has bound its socket to. The loopback's own is what the redirect gives to all others.
fn source(accepted: BorrowedFd<'_>) -> io::Result<Option<IpAddr>> {
    let peer: SockaddrStorage = getpeername(accepted.as_raw_fd())?;
    let v4 = peer.as_sockaddr_in().map(|peer| IpAddr::V4(peer.ip()));
    let v6 = || peer.as_sockaddr_in6().map(|peer| IpAddr::V6(peer.ip()));
    let peer = v4.or_else(v6).map(|peer| peer.to_canonical());
    let of_redirect = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    Ok(peer.filter(|peer| !of_redirect.contains(peer)))
}

/// To be called on a thread that ends with this: it becomes the owner, as far as the kernel asks when a socket is opened.
fn open(shape: &Shape) -> io::Result<OwnedFd> {
    become_owner(shape.owner)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(shape.family, SockType::Stream, flags, None)?;
    if shape.mark != 0 {
        setsockopt(&fd, option::Mark, &shape.mark)?;
    }
    if shape.device != 0 {
        sockopt::bind_to_device(fd.as_fd(), shape.device)?;
    }
    if let Some(source) = shape.source {
        // Its port is chosen at connect, by which time it may be shared with connections to elsewhere.
        setsockopt(&fd, option::IpBindAddressNoPort, &true)?;
        let source = SockaddrStorage::from(SocketAddr::new(source, 0));
        bind(fd.as_raw_fd(), &source)?;
    }
    Ok(fd)
}

/// `setfsuid(2)` and `setfsgid(2)`, of this thread alone, group first; they don't say whether they have worked.
fn become_owner((uid, gid): (Uid, Gid)) -> io::Result<()> {
    setfsgid(gid);
    setfsuid(uid);
    let (is_uid, is_gid) = (setfsuid(uid), setfsgid(gid));
    if (is_uid, is_gid) == (uid, gid) {
        return Ok(());
    }
    let told = format!("can't become user {uid} and group {gid}, still {is_uid} and {is_gid}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> CallerRecord {
        CallerRecord {
            address: imds_guard_ebpf::mapped([169, 254, 169, 254]),
            owner_uid: 7,
            effective_uid: 8,
            ..CallerRecord::ZERO
        }
    }

    #[test]
    fn a_caller_whose_reach_is_unknown_is_not_dialled_for() {
        assert!(shape(&record(), None).is_some());
        for gone in [
            missing::MARK,
            missing::REACH,
            missing::OWNER | missing::EFFECTIVE_IDS,
        ] {
            let mut unknown = record();
            unknown.missing = gone;
            assert_eq!(shape(&unknown, None), None, "{gone:#x}");
        }
    }

    #[test]
    fn the_sockets_owner_counts_and_the_callers_effective_user_where_it_has_none() {
        let mut unowned = record();
        assert_eq!(shape(&unowned, None).unwrap().owner.0.as_raw(), 7);
        unowned.missing = missing::OWNER;
        assert_eq!(shape(&unowned, None).unwrap().owner.0.as_raw(), 8);
    }
}
