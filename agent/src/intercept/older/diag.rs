//! sock_diag(7): which TCP sockets of this thread's network namespace are connected to a port, and the end of one of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use imds_guard_ebpf::NAT64;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// `include/uapi/linux/{netlink,sock_diag,inet_diag}.h`.
mod uapi {
    pub(super) const NLMSG_ERROR: u16 = 2;
    pub(super) const NLMSG_DONE: u16 = 3;
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const SOCK_DESTROY: u16 = 21;
    pub(super) const NLM_F_REQUEST: u16 = 0x1;
    pub(super) const NLM_F_ACK: u16 = 0x4;
    pub(super) const NLM_F_DUMP: u16 = 0x300;
    pub(super) const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
    pub(super) const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
    pub(super) const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
    pub(super) const SK_DIAG_BPF_STORAGE: u16 = 1;
    pub(super) const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
    /// Above these bits of an attribute's type stand flags.
    pub(super) const NLA_TYPE_MASK: u16 = 0x3fff;
}

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// `struct inet_diag_req_v2`: eight bytes and the id.
const ASK: usize = 8 + ID;
/// `struct inet_diag_msg`: four bytes, the id, five words.
const TOLD: usize = 4 + ID + 20;
/// States in which a socket has a peer, `enum` of `include/net/tcp_states.h`: all but TIME_WAIT (6), CLOSE (7), LISTEN (10).
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// What the kernel puts into one datagram of a dump at most.
const DATAGRAM: usize = 64 << 10;

/// A conversation with the kernel.
#[derive(Debug)]
pub(super) struct Diag {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// One connected socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connected {
    family: u8,
    id: [u8; ID],
    /// What it is connected to; IPv4 also where it is written as IPv6 or goes through NAT64.
    pub(super) peer: SocketAddr,
    /// Its mark. 0: none.
    pub(super) mark: u32,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let buffer = vec![0; DATAGRAM];
        Ok(Self { fd, buffer })
    }

    /// All TCP sockets that are connected to `port` of anything, or about to be, with what each has in `marks`, a map of
    /// socket storage.
    pub(super) fn connected_to(
        &mut self,
        port: u16,
        marks: BorrowedFd<'_>,
    ) -> io::Result<Vec<Connected>> {
        let mut found = vec![];
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut id = [0; ID];
            id[2..4].copy_from_slice(&port.to_be_bytes());
            let family = u8::try_from(family).unwrap_or_default();
            let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP;
            let mut ask = message(uapi::SOCK_DIAG_BY_FAMILY, flags, family, &id);
            let map = u32::try_from(marks.as_raw_fd()).map_err(|_| Errno::EBADF)?;
            // struct nlattr { length, type }, twice, one in the other.
            for half in [
                12,
                uapi::INET_DIAG_REQ_SK_BPF_STORAGES,
                8,
                uapi::SK_DIAG_BPF_STORAGE_REQ_MAP_FD,
            ] {
                ask.extend(half.to_ne_bytes());
            }
            ask.extend(map.to_ne_bytes());
            self.ask(ask)?;
            while !self.take(&mut found)? {}
        }
        Ok(found)
    }

    /// Ends a connection as if its peer had reset it; the peer is told.
    pub(super) fn destroy(&mut self, socket: &Connected) -> Result<(), Errno> {
        let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_ACK;
        self.ask(message(
            uapi::SOCK_DESTROY,
            flags,
            socket.family,
            &socket.id,
        ))?;
        self.take(&mut vec![]).map(drop)
    }

    fn ask(&self, mut message: Vec<u8>) -> Result<(), Errno> {
        let length = u32::try_from(message.len()).unwrap_or_default();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty()).map(drop)
    }

    /// Takes one datagram; whether it was the last of the answer.
    fn take(&mut self, found: &mut Vec<Connected>) -> Result<bool, Errno> {
        let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        parse(self.buffer.get(..length).unwrap_or_default(), found)
    }
}

fn message(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut message = vec![0; HEADER + ASK];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[HEADER] = family;
    message[HEADER + 1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    message[HEADER + 4..HEADER + 8].copy_from_slice(&WITH_PEER.to_ne_bytes());
    message[HEADER + 8..].copy_from_slice(id);
    message
}

fn parse(datagram: &[u8], found: &mut Vec<Connected>) -> Result<bool, Errno> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = usize::try_from(u32_at(rest, 0)?).map_err(|_| Errno::EBADMSG)?;
        let message = rest.get(HEADER..length).ok_or(Errno::EBADMSG)?;
        match u16_at(rest, 4)? {
            uapi::NLMSG_DONE => return Ok(true),
            uapi::NLMSG_ERROR => {
                let negative = i32::from_ne_bytes(u32_at(message, 0)?.to_ne_bytes());
                return match negative {
                    0 => Ok(true),
                    negative => Err(Errno::from_raw(-negative)),
                };
            }
            uapi::SOCK_DIAG_BY_FAMILY => found.push(connected(message)?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn connected(message: &[u8]) -> Result<Connected, Errno> {
    let id = message.get(4..4 + ID).and_then(|id| id.try_into().ok());
    let id: [u8; ID] = id.ok_or(Errno::EBADMSG)?;
    let family = *message.first().ok_or(Errno::EBADMSG)?;
    let port = u16::from_be_bytes([id[2], id[3]]);
    let mut address = [0; 16];
    address.copy_from_slice(&id[20..36]);
    let peer = if i32::from(family) == libc::AF_INET {
        IpAddr::from([address[0], address[1], address[2], address[3]])
    } else {
        meant(Ipv6Addr::from(address))
    };
    Ok(Connected {
        family,
        id,
        peer: SocketAddr::new(peer, port),
        mark: mark(message.get(TOLD..).unwrap_or_default()).unwrap_or(0),
    })
}

/// As the kernel programs read an IPv6 address.
fn meant(address: Ipv6Addr) -> IpAddr {
    let octets = address.octets();
    let nat64 = NAT64.map(u32::to_ne_bytes);
    match octets.strip_prefix(nat64.as_flattened()) {
        Some(&[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
        _ => IpAddr::V6(address).to_canonical(),
    }
}

/// The value in the only map that was asked for.
fn mark(attributes: &[u8]) -> Option<u32> {
    let storages = find(attributes, uapi::INET_DIAG_SK_BPF_STORAGES)?;
    let storage = find(storages, uapi::SK_DIAG_BPF_STORAGE)?;
    u32_at(find(storage, uapi::SK_DIAG_BPF_STORAGE_MAP_VALUE)?, 0).ok()
}

/// What is in the first attribute of that type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0).ok()?);
        let kind = u16_at(attributes, 2).ok()? & uapi::NLA_TYPE_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Errno> {
    let field = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    field.map(u16::from_ne_bytes).ok_or(Errno::EBADMSG)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map(u32::from_ne_bytes).ok_or(Errno::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Vec<u8> {
        let mut message = vec![0; TOLD];
        message[0] = 10;
        message[6..8].copy_from_slice(&80u16.to_be_bytes());
        let to = "64:ff9b::a9fe:a9fe".parse::<Ipv6Addr>().unwrap();
        message[24..40].copy_from_slice(&to.octets());
        message
    }

    #[test]
    fn a_peer_is_read_as_the_programs_read_it() {
        let read = connected(&told()).unwrap();
        assert_eq!(read.peer, "169.254.169.254:80".parse().unwrap());
        assert_eq!(read.mark, 0);
        assert_eq!(
            meant("::ffff:10.0.0.1".parse().unwrap()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
    }

    #[test]
    fn a_mark_is_seen_behind_other_attributes_and_cut_ones_are_none() {
        let mut message = told();
        message.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        // The storages, in them one, in that the map's id, padding, and the value.
        message.extend([28, 0, 20, 0x80, 24, 0, 1, 0x80]);
        message.extend([8, 0, 2, 0, 9, 0, 0, 0, 4, 0, 1, 0, 8, 0, 3, 0, 7, 0, 0, 0]);
        assert_eq!(connected(&message).unwrap().mark, 7);
        for length in TOLD..message.len() {
            assert_eq!(connected(&message[..length]).unwrap().mark, 0, "{length}");
        }
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_never_a_panic() {
        let mut datagram = vec![0; HEADER];
        datagram.extend(told());
        let length = u32::try_from(datagram.len()).unwrap();
        datagram[..4].copy_from_slice(&length.to_ne_bytes());
        datagram[4..6].copy_from_slice(&uapi::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        for length in 0..datagram.len() {
            let outcome = parse(&datagram[..length], &mut vec![]);
            assert!(matches!(outcome, Ok(false) | Err(Errno::EBADMSG)));
        }
        let mut found = vec![];
        assert_eq!(parse(&datagram, &mut found), Ok(false));
        assert_eq!(found.len(), 1);
    }
}
