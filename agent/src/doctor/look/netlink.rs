//! Interfaces, addresses, routes and rules of the calling thread's network namespace, by rtnetlink dumps.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{
    AddressFamily as Family, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
    send, socket,
};

use super::super::facts::{Interface, Route, Rule, Seen};
use super::because;

/// The kernel writes parts of a dump of at most this many bytes (`NLMSG_GOODSIZE` and what it grows to).
const PART: usize = 64 * 1024;

/// A conversation with the kernel's routing side, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> Seen<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(
            Family::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        );
        let fd = fd.map_err(because("opening netlink"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(because("opening netlink"))?;
        Ok(Self(fd))
    }

    pub(super) fn interfaces(&self) -> Seen<Vec<Interface>> {
        let asked = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(asked, |told| match told {
            RouteNetlinkMessage::NewLink(link) => Some(interface(link)),
            _ => None,
        })
    }

    /// Addresses with the index of their interface.
    pub(super) fn addresses(&self) -> Seen<Vec<(IpAddr, u32)>> {
        let asked = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(asked, |told| match told {
            RouteNetlinkMessage::NewAddress(told) => {
                let own = told.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(own) => Some(*own),
                    _ => None,
                });
                // IPv6 has no peers: the address alone.
                let other = told.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                });
                Some((own.or(other)?, told.header.index))
            }
            _ => None,
        })
    }

    /// Routes with the index of their interface; default routes have a prefix of 0.
    pub(super) fn routes(&self) -> Seen<Vec<(Route, Option<u32>)>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            let asked = RouteNetlinkMessage::GetRoute(asked);
            all.extend(self.dump(asked, |told| match told {
                RouteNetlinkMessage::NewRoute(told) => route(&told),
                _ => None,
            })?);
        }
        Ok(all)
    }

    /// Policy rules that have a destination.
    pub(super) fn rules(&self) -> Seen<Vec<Rule>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RuleMessage::default();
            asked.header.family = family;
            let asked = RouteNetlinkMessage::GetRule(asked);
            all.extend(self.dump(asked, |told| match told {
                RouteNetlinkMessage::NewRule(told) => rule(&told),
                _ => None,
            })?);
        }
        Ok(all)
    }

    fn dump<T>(
        &self,
        asked: RouteNetlinkMessage,
        of: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Seen<Vec<T>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_DUMP | NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(asked));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(because("asking netlink"))?;
        let (mut all, mut part) = (Vec::new(), vec![0; PART]);
        loop {
            let length = recv(self.0.as_raw_fd(), &mut part, MsgFlags::empty())
                .map_err(because("reading netlink"))?;
            let mut rest = part.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let told = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(because("netlink"))?;
                let length = usize::try_from(told.header.length)
                    .unwrap_or(0)
                    .next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
                match told.payload {
                    NetlinkPayload::Done(_) => return Ok(all),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(format!("netlink: {}", error.to_io()));
                    }
                    NetlinkPayload::InnerMessage(told) => all.extend(of(told)),
                    _ => {}
                }
            }
        }
    }
}

fn interface(link: LinkMessage) -> Interface {
    let mut found = Interface {
        index: link.header.index,
        ..Interface::default()
    };
    let (mut below, mut elsewhere, mut bus, mut device) = (None, false, None, None);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => device = Some(name),
            LinkAttribute::LinkInfo(infos) => {
                found.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind_name(&kind)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    found.below = below.map(|index| (index, elsewhere));
    // Virtual ones (a tun made by a program) have no parent device.
    found.device = device.map(|device| match bus {
        Some(bus) => format!("{bus} {device}"),
        None => device,
    });
    found
}

/// As the kernel and iproute2 write it.
fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

fn route(told: &RouteMessage) -> Option<(Route, Option<u32>)> {
    let header = &told.header;
    if !matches!(
        header.kind,
        RouteType::Unicast | RouteType::Local | RouteType::Anycast
    ) {
        return None;
    }
    let (mut to, mut interface, mut table) = (None, None, u32::from(header.table));
    for attribute in &told.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                interface = hops.first().map(|hop| hop.interface_index)
            }
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        _ => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let route = Route {
        to: to.unwrap_or(any),
        prefix: header.destination_prefix_length,
        interface: None,
        table,
        local: header.kind == RouteType::Local,
    };
    Some((route, interface))
}

fn rule(told: &RuleMessage) -> Option<Rule> {
    let mut table = u32::from(told.header.table);
    let mut to = None;
    for attribute in &told.attributes {
        match attribute {
            RuleAttribute::Destination(address) => to = Some(*address),
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    Some(Rule {
        to: to?,
        prefix: told.header.dst_len,
        table,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_and_its_address_are_seen() {
        let netlink = Netlink::open().unwrap();
        let interfaces = netlink.interfaces().unwrap();
        let lo = interfaces.iter().find(|i| i.name == "lo").unwrap();
        assert_eq!((lo.device.as_ref(), lo.below), (None, None));
        let addresses = netlink.addresses().unwrap();
        assert!(addresses.contains(&(std::net::Ipv4Addr::LOCALHOST.into(), lo.index)));
        let routes = netlink.routes().unwrap();
        assert!(routes.iter().any(|(r, _)| r.local && r.table == 255));
        assert!(netlink.rules().unwrap().iter().all(|r| r.prefix > 0));
    }
}
