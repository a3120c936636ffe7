//! The endpoint table in the kernel, and the order in which it is rewritten so that no reload opens a gap.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError},
};
use imds_guard_ebpf::{Endpoint, EndpointKey, Issuer, Mode, OtherTraffic, Prefilter, mapped};

use super::InterceptError;

/// Entries that the table holds.
const CAPACITY: usize = 64;

/// One guarded (address, port).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardedEndpoint {
    /// IPv4, or IPv6 (an IPv4-mapped one means the IPv4 address).
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
    /// How strictly.
    pub mode: Mode,
    /// Comes back in the records ([`imds_guard_ebpf::CallerRecord::endpoint_id`]) and is the value of upstream marks.
    /// Several addresses may share one.
    pub id: NonZeroU32,
    /// Whether denies are enforced there, also in audit.
    pub denies: bool,
    /// What else may go to this address while it is enforced; of several endpoints there, the strictest. `None`: what the
    /// others there say, or [`OtherTraffic::Ports`].
    pub other_traffic: Option<OtherTraffic>,
}

/// The kernel's tables.
pub(super) struct Tables {
    pub(super) endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub(super) addresses: HashMap<MapData, [u8; 16], u32>,
    pub(super) prefilter: Array<MapData, Prefilter>,
}

impl GuardedEndpoint {
    fn key(&self) -> EndpointKey {
        let address = match self.address {
            IpAddr::V4(v4) => mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        EndpointKey {
            address,
            port: u32::from(self.port),
        }
    }

    fn value(&self) -> Endpoint {
        Endpoint {
            mode: self.mode as u32,
            id: self.id.get(),
            denies: u32::from(self.denies),
        }
    }
}

/// Where the issuer listens, as the programs want it.
pub(super) fn issuer(listen: Option<SocketAddr>, netns_cookie: u64) -> Issuer {
    let nowhere = SocketAddr::from(([0; 4], 0));
    let at = listen.unwrap_or(nowhere);
    let address = match at.ip() {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    Issuer {
        at: EndpointKey {
            address,
            port: u32::from(at.port()),
        },
        reserved: 0,
        netns_cookie,
    }
}

/// The same for the same address in every run and after every reload (FNV-1a): marks and records outlive both.
pub(crate) fn endpoint_id(address: SocketAddr) -> NonZeroU32 {
    let mut hash = 0x811c_9dc5_u32;
    for byte in address.to_string().bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    NonZeroU32::new(hash).unwrap_or(NonZeroU32::MIN)
}

/// Checks and keys a table.
fn keyed(
    endpoints: &[GuardedEndpoint],
    proxy_port: u16,
) -> Result<BTreeMap<EndpointKey, Endpoint>, InterceptError> {
    let bad = |detail| InterceptError::BadEndpoints { detail };
    let mut table = BTreeMap::new();
    for endpoint in endpoints {
        let GuardedEndpoint { address, port, .. } = endpoint;
        if *port == proxy_port {
            return Err(bad(format!(
                "{address} port {port} is the listener's own port: choose another with --port"
            )));
        }
        if address.is_unspecified() || address.is_loopback() || is_mapped_loopback(*address) {
            return Err(bad(format!("{address} is this host itself")));
        }
        if table.insert(endpoint.key(), endpoint.value()).is_some() {
            return Err(bad(format!("{address} port {port} is there twice")));
        }
    }
    if table.len() > CAPACITY {
        return Err(bad(format!(
            "{} endpoints, and the kernel's table holds {CAPACITY}",
            table.len()
        )));
    }
    Ok(table)
}

fn is_mapped_loopback(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()) || v6 == Ipv6Addr::LOCALHOST)
}

/// Whether anybody is steered: otherwise all is in observe, and nothing of the caller's world is touched.
pub(super) fn steers(endpoints: &[GuardedEndpoint]) -> bool {
    endpoints
        .iter()
        .any(|endpoint| endpoint.mode != Mode::Observe)
}

/// The addresses with an enforced endpoint.
fn addresses(endpoints: &[GuardedEndpoint]) -> BTreeMap<[u8; 16], u32> {
    let mut table = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|e| e.mode == Mode::Enforce) {
        let said = table.entry(endpoint.key().address).or_insert(None);
        *said = endpoint.other_traffic.max(*said);
    }
    let word = |said: Option<OtherTraffic>| said.unwrap_or(OtherTraffic::Ports) as u32;
    table
        .into_iter()
        .map(|(at, said)| (at, word(said)))
        .collect()
}

/// Makes the kernel's tables equal to `endpoints`.
pub(super) fn write(
    tables: &mut Tables,
    endpoints: &[GuardedEndpoint],
    proxy_port: u16,
) -> Result<(), InterceptError> {
    let wanted = keyed(endpoints, proxy_port)?;
    let addresses = addresses(endpoints);
    let exact = Prefilter {
        endpoints: !wanted.keys().fold(0, |m, key| m | key.prefilter_mask()),
        addresses: !addresses.keys().fold(0, |m, address| {
            let (address, port) = (*address, 0);
            m | EndpointKey { address, port }.prefilter_mask()
        }),
        idle: u64::from(!steers(endpoints)),
    };
    // Masks that rule out less, new entries, then what is stale, then the exact masks: every wanted key is found all the time.
    let before = tables.prefilter.get(&0, 0).map_err(failed)?;
    let both = Prefilter {
        endpoints: before.endpoints & exact.endpoints,
        addresses: before.addresses & exact.addresses,
        idle: before.idle & exact.idle,
    };
    tables.prefilter.set(0, both, 0).map_err(failed)?;
    replace(&mut tables.endpoints, &wanted)?;
    replace(&mut tables.addresses, &addresses)?;
    tables.prefilter.set(0, exact, 0).map_err(failed)
}

/// Whether the kernel's tables are other than [`write()`] has made them.
pub(super) fn differ(tables: &Tables, endpoints: &[GuardedEndpoint]) -> bool {
    let values = |of: &GuardedEndpoint| (of.key(), of.value());
    let wanted: BTreeMap<EndpointKey, Endpoint> = endpoints.iter().map(values).collect();
    is_other(&tables.endpoints, &wanted) || is_other(&tables.addresses, &addresses(endpoints))
}

fn is_other<K: Pod + Ord, V: Pod + PartialEq>(
    table: &HashMap<MapData, K, V>,
    wanted: &BTreeMap<K, V>,
) -> bool {
    let there: Result<BTreeMap<K, V>, _> = table.iter().collect();
    !there.is_ok_and(|there| there == *wanted)
}

/// Makes `table` equal to `wanted`, new entries first.
fn replace<K: Pod + Ord, V: Pod + PartialEq>(
    table: &mut HashMap<MapData, K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<(), InterceptError> {
    let stale: Vec<K> = table
        .keys()
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?
        .into_iter()
        .filter(|key| !wanted.contains_key(key))
        .collect();
    // Should old and new not fit side by side, the old ones have to go first: of those, nothing is wanted any more.
    if wanted.len() + stale.len() > CAPACITY {
        remove(table, &stale)?;
    }
    for (key, value) in wanted {
        // An entry that is replaced can be missed for a moment by whoever looks it up just then.
        if table.get(key, 0).ok().as_ref() == Some(value) {
            continue;
        }
        table.insert(key, value, 0).map_err(failed)?;
    }
    remove(table, &stale)
}

fn remove<K: Pod, V: Pod>(
    table: &mut HashMap<MapData, K, V>,
    keys: &[K],
) -> Result<(), InterceptError> {
    for key in keys {
        match table.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

fn failed(error: MapError) -> InterceptError {
    match error {
        MapError::SyscallError(e) => {
            InterceptError::system("writing the endpoint table")(e.io_error)
        }
        other => InterceptError::WrongObject {
            detail: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, port: u16) -> GuardedEndpoint {
        GuardedEndpoint {
            address: address.parse().unwrap(),
            port,
            mode: Mode::Enforce,
            id: NonZeroU32::MIN,
            denies: false,
            other_traffic: None,
        }
    }

    #[test]
    fn an_enforced_address_keeps_its_strictest_word_on_other_traffic() {
        let of = |port, mode, other_traffic| GuardedEndpoint {
            mode,
            other_traffic,
            ..endpoint("168.63.129.16", port)
        };
        let table = addresses(&[
            of(80, Mode::Enforce, Some(OtherTraffic::Pass)),
            of(32526, Mode::Enforce, Some(OtherTraffic::Ports)),
            of(81, Mode::Audit, Some(OtherTraffic::Refuse)),
            of(82, Mode::Enforce, None),
        ]);
        let words: Vec<u32> = table.into_values().collect();
        assert_eq!(words, [OtherTraffic::Ports as u32]);
        let unsaid = addresses(&[of(80, Mode::Enforce, None)]);
        assert_eq!(
            unsaid.into_values().collect::<Vec<_>>(),
            [OtherTraffic::Ports as u32]
        );
        assert!(addresses(&[of(80, Mode::Observe, Some(OtherTraffic::Refuse))]).is_empty());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        assert_eq!(
            endpoint("::ffff:169.254.169.254", 80).key(),
            endpoint("169.254.169.254", 80).key()
        );
        assert!(
            keyed(
                &[
                    endpoint("::ffff:169.254.169.254", 80),
                    endpoint("169.254.169.254", 80)
                ],
                1
            )
            .is_err()
        );
    }

    #[test]
    fn impossible_tables_are_refused_and_possible_ones_are_not() {
        assert!(keyed(&[endpoint("169.254.169.254", 9)], 9).is_err());
        assert!(keyed(&[endpoint("169.254.169.254", 9)], 10).is_ok());
        for own in ["127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.2"] {
            assert!(keyed(&[endpoint(own, 80)], 1).is_err(), "{own}");
        }
        let many = |n: u16| {
            (2..n + 2)
                .map(|p| endpoint("169.254.169.254", p))
                .collect::<Vec<_>>()
        };
        assert!(keyed(&many(64), 1).is_ok());
        assert!(keyed(&many(65), 1).is_err());
    }

    #[test]
    fn endpoint_ids_are_stable_and_differ() {
        let id = |a: &str| endpoint_id(a.parse().unwrap());
        assert_eq!(id("169.254.169.254:80"), id("169.254.169.254:80"));
        assert_ne!(id("169.254.169.254:80"), id("168.63.129.16:80"));
        assert_ne!(id("168.63.129.16:32526"), id("168.63.129.16:80"));
    }
}
