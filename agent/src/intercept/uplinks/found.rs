//! Which interfaces lead to a metadata service: those with hardware, those that a route to a guarded address names, those
//! that are configured, and whatever any of these stands on (the ports of a bond, the device below a VLAN).
//!
//! A frame needs no route: whoever makes it himself chooses the interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use nix::ifaddrs::getifaddrs;

/// An interface that frames leave by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// Its number; another one once it has been away.
    pub(super) index: u32,
    /// Whether its frames begin with an Ethernet header.
    pub(super) ethernet: bool,
    /// Whether nothing of ours is below it: what it sends is on the wire.
    pub(super) lowest: bool,
}

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ETHERNET: u16 = 1;
/// `RTF_REJECT`, include/uapi/linux/route.h: a route to nowhere.
const REJECT: u32 = 0x200;

/// The uplinks of the calling thread's network namespace, in a stable order.
pub(super) fn uplinks(addresses: &[IpAddr], configured: &[Arc<str>]) -> io::Result<Vec<Interface>> {
    let present = present()?;
    let mut names: BTreeSet<String> = configured.iter().map(|name| name.to_string()).collect();
    names.extend(present.keys().filter(|name| has_hardware(name)).cloned());
    names.extend(routed(addresses));
    let mut below: Vec<String> = names.iter().cloned().collect();
    while let Some(name) = below.pop() {
        let lower = lower(&name).into_iter();
        below.extend(lower.filter(|name| names.insert(name.clone())));
    }
    let known = names.into_iter().filter(|name| *name != "lo");
    Ok(known
        .filter_map(|name| {
            let &(index, kind) = present.get(&name)?;
            Some(Interface {
                lowest: lower(&name).is_empty(),
                ethernet: kind == ETHERNET,
                index,
                name,
            })
        })
        .collect())
}

/// Every interface of this namespace, with its number and its kind of hardware.
fn present() -> io::Result<BTreeMap<String, (u32, u16)>> {
    let of = |interface: nix::ifaddrs::InterfaceAddress| {
        let link = interface.address?;
        let link = link.as_link_addr()?;
        let index = u32::try_from(link.ifindex()).ok()?;
        Some((interface.interface_name, (index, link.hatype())))
    };
    Ok(getifaddrs()?.filter_map(of).collect())
}

/// sysfs may be another namespace's: only names that are present here count in the end.
fn has_hardware(name: &str) -> bool {
    Path::new("/sys/class/net")
        .join(name)
        .join("device")
        .exists()
}

fn lower(name: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(Path::new("/sys/class/net").join(name)) else {
        return vec![];
    };
    let named = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    named
        .filter_map(|name| name.strip_prefix("lower_").map(str::to_owned))
        .collect()
}

/// The interfaces of all routes that some address is in, and not of the best alone: that may change at any time.
fn routed(addresses: &[IpAddr]) -> BTreeSet<String> {
    let read = |name| fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    // A kernel without IPv6 has no table of it.
    let (v4, v6) = (read("route"), read("ipv6_route"));
    let mut names = BTreeSet::new();
    for address in addresses {
        match address {
            IpAddr::V4(v4_address) => names.extend(by_v4(v4.as_deref().unwrap_or(""), *v4_address)),
            IpAddr::V6(v6_address) => names.extend(by_v6(v6.as_deref().unwrap_or(""), *v6_address)),
        }
    }
    names
}

/// man 5 proc: interface, destination, gateway, flags, three numbers, mask; addresses as the machine holds them in memory.
fn by_v4(table: &str, address: Ipv4Addr) -> Vec<String> {
    let address = u32::from_ne_bytes(address.octets());
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let matches = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (to, flags, mask) = (
            hex(fields.get(1)?)?,
            hex(fields.get(3)?)?,
            hex(fields.get(7)?)?,
        );
        let fits = address & mask == to && flags & REJECT == 0;
        fits.then(|| fields[0].to_owned())
    };
    table.lines().skip(1).filter_map(matches).collect()
}

/// net/ipv6/route.c: destination, its length, source, its length, next hop, three numbers, flags, interface; all in hex.
fn by_v6(table: &str, address: Ipv6Addr) -> Vec<String> {
    let address = u128::from(address);
    let matches = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let to = u128::from_str_radix(fields.first()?, 16).ok()?;
        let length = u32::from_str_radix(fields.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let mask = u128::MAX
            .checked_shl(128_u32.checked_sub(length)?)
            .unwrap_or(0);
        let fits = address & mask == to && flags & REJECT == 0;
        fits.then(|| fields.get(9).map(|name| (*name).to_owned()))?
    };
    table.lines().filter_map(matches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_their_interfaces() {
        // As a little-endian machine shows them.
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth1\tFEA9FEA9\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            eth2\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
            *\tFEA9FEA9\t00000000\t0205\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        if cfg!(target_endian = "little") {
            let address = "169.254.169.254".parse().unwrap();
            assert_eq!(by_v4(table, address), ["eth0", "eth1"]);
        }
    }

    #[test]
    fn routes_of_ipv6_too() {
        let zero = "0".repeat(32);
        let line = |to: &str, length: &str, flags: &str, name: &str| {
            format!("{to} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {name}\n")
        };
        let table = line("fd000ec2000000000000000000000254", "80", "00000001", "eth1")
            + &line(&zero, "00", "00000003", "eth0")
            + &line(&zero, "00", "00200200", "lo")
            + &line("fe800000000000000000000000000000", "40", "00000001", "eth2");
        let address = "fd00:ec2::254".parse().unwrap();
        assert_eq!(by_v6(&table, address), ["eth1", "eth0"]);
    }

    #[test]
    fn the_loopback_is_no_uplink() {
        let all = uplinks(&["127.0.0.1".parse().unwrap()], &["lo".into()]).unwrap();
        assert!(all.iter().all(|i| i.name != "lo"));
    }
}
