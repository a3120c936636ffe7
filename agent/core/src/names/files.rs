//! `/etc/resolv.conf` and `/etc/hosts`, read as the C library reads them, of which we need little: our names are absolute, so
//! search domains are nothing to us.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// As many as the C library asks.
const SERVERS: usize = 3;
const PORT: u16 = 53;

/// Who is asked for addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolvers {
    /// In the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// `options use-vc`: over TCP alone.
    pub over_tcp: bool,
    /// `nameserver` lines that mean nothing to us.
    pub unreadable: Vec<String>,
}

impl Resolvers {
    /// Reads `resolv.conf`. `interface` tells the number of a network interface by its name, for a link-local resolver.
    pub fn read(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let word = words.next().unwrap_or_default();
                    match server(word, &interface) {
                        Some(server) if read.servers.len() < SERVERS => read.servers.push(server),
                        Some(_) => {}
                        None => read.unreadable.push(word.to_owned()),
                    }
                }
                Some("options") => read.over_tcp |= words.any(|word| word == "use-vc"),
                _ => {}
            }
        }
        read
    }
}

fn server(word: &str, interface: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        let address: IpAddr = word.parse().ok()?;
        return Some(SocketAddr::new(address, PORT));
    };
    let zone = zone.parse().ok().or_else(|| interface(zone))?;
    let at = SocketAddrV6::new(address.parse().ok()?, PORT, 0, zone);
    Some(at.into())
}

/// The addresses that `hosts` has for `name`, which is in lower case and without a dot at its end.
pub fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let mut found = vec![];
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        let is_it = |word: &str| word.trim_end_matches('.').eq_ignore_ascii_case(name);
        if words.any(is_it) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
