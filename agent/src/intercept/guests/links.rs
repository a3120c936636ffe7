//! The interfaces of this network namespace, as rtnetlink(7) lists them. (`/sys/class/net` shows the namespace in which
//! sysfs was mounted, which need not be ours.) Asks and reads; changes nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Index of what it is a port of.
    pub(super) master: Option<u32>,
    /// Link-layer address, where it is one of Ethernet.
    pub(super) mac: Option<[u8; 6]>,
    /// `bridge`, `tun`, `veth`, …; none for hardware.
    pub(super) kind: Option<String>,
}

/// `enum` of `include/uapi/linux/{netlink,rtnetlink,if_link}.h`.
mod uapi {
    pub(super) const NLMSG_ERROR: u16 = 2;
    pub(super) const NLMSG_DONE: u16 = 3;
    pub(super) const RTM_NEWLINK: u16 = 16;
    pub(super) const RTM_GETLINK: u16 = 18;
    pub(super) const NLM_F_REQUEST_DUMP: u16 = 0x301;
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MASTER: u16 = 10;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    /// Above these bits of an attribute's type stand flags.
    pub(super) const NLA_TYPE_MASK: u16 = 0x3fff;
}

/// Length of `struct nlmsghdr` and of `struct ifinfomsg`: 16 bytes each.
const HEADER: usize = 16;
/// What the kernel puts into one datagram of a dump at most.
const DATAGRAM: usize = 64 << 10;

/// Opens a netlink socket that hears of the `groups` (a bit mask of the old numbering).
pub(super) fn open(protocol: SockProtocol, groups: u32) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// Every interface of the calling thread's network namespace.
///
/// # Errors
/// The errno; or `EBADMSG` for an answer that is not as documented.
pub(super) fn all() -> io::Result<Vec<Link>> {
    let fd = open(SockProtocol::NetlinkRoute, 0)?;
    let mut ask = [0; 2 * HEADER];
    ask[0] = 32;
    ask[4..6].copy_from_slice(&uapi::RTM_GETLINK.to_ne_bytes());
    ask[6..8].copy_from_slice(&uapi::NLM_F_REQUEST_DUMP.to_ne_bytes());
    sendto(
        fd.as_raw_fd(),
        &ask,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let (mut links, mut buffer) = (vec![], vec![0; DATAGRAM]);
    loop {
        // The kernel has the first part ready when sendto returns, and each next one when the last was taken.
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take(&buffer[..length], &mut links)? {
            return Ok(links);
        }
    }
}

/// Takes the links out of one datagram; whether it was the last.
fn take(datagram: &[u8], links: &mut Vec<Link>) -> Result<bool, Errno> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = usize::try_from(u32_at(rest, 0)?).map_err(|_| Errno::EBADMSG)?;
        let message = rest.get(HEADER..length).ok_or(Errno::EBADMSG)?;
        match u16_at(rest, 4)? {
            uapi::NLMSG_DONE => return Ok(true),
            uapi::NLMSG_ERROR => {
                let negative = i32::from_ne_bytes(u32_at(message, 0)?.to_ne_bytes());
                return Err(Errno::from_raw(-negative));
            }
            uapi::RTM_NEWLINK => links.push(link(message)?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn link(message: &[u8]) -> Result<Link, Errno> {
    let mut link = Link {
        index: u32_at(message, 4)?,
        ..Link::default()
    };
    each(
        &message[HEADER.min(message.len())..],
        &mut |kind, value| match kind {
            uapi::IFLA_IFNAME => link.name = text(value),
            uapi::IFLA_MASTER => link.master = u32_at(value, 0).ok(),
            uapi::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            uapi::IFLA_LINKINFO => each(value, &mut |kind, value| {
                if kind == uapi::IFLA_INFO_KIND {
                    link.kind = Some(text(value));
                }
            }),
            _ => {}
        },
    );
    Ok(link)
}

/// Calls `with` for each attribute. What is cut short ends it.
fn each(mut attributes: &[u8], with: &mut dyn FnMut(u16, &[u8])) {
    while let (Ok(length), Ok(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else {
            return;
        };
        with(kind & uapi::NLA_TYPE_MASK, value);
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
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

    #[test]
    fn the_loopback_is_there_and_is_no_port_of_anything() {
        let all = all().unwrap();
        let lo = all.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((lo.index, lo.master, lo.mac), (1, None, Some([0; 6])));
    }

    #[test]
    fn what_is_cut_short_is_an_error_or_nothing_and_never_a_panic() {
        let mut message = vec![0; 2 * HEADER];
        message[4..6].copy_from_slice(&uapi::RTM_NEWLINK.to_ne_bytes());
        message.extend([6, 0, 3, 0, b'x', 0, 0, 0]);
        message[0] = 40;
        let mut links = vec![];
        assert_eq!(take(&message, &mut links), Ok(false));
        assert_eq!(links[0].name, "x");
        for length in 0..message.len() {
            let outcome = take(&message[..length], &mut links);
            assert!(matches!(outcome, Ok(false) | Err(Errno::EBADMSG)));
        }
        message[32] = 0;
        assert_eq!(take(&message, &mut vec![]), Ok(false));
    }
}
