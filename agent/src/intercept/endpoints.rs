//! The endpoint table in the kernel, and the order in which it is rewritten so that no reload opens a gap.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
};

use aya::maps::{Array, HashMap, MapData, MapError};
use imds_guard_ebpf::{Endpoint, EndpointKey, Mode, mapped};

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
        }
    }
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

/// Makes the kernel's table equal to `endpoints`.
pub(super) fn write(
    table: &mut HashMap<MapData, EndpointKey, Endpoint>,
    prefilter: &mut Array<MapData, u64>,
    endpoints: &[GuardedEndpoint],
    proxy_port: u16,
) -> Result<(), InterceptError> {
    let wanted = keyed(endpoints, proxy_port)?;
    let stale: Vec<EndpointKey> = table
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
    // Wider mask, new entries, then what is stale, then the exact mask: every wanted key is found all the time.
    let exact = wanted.keys().fold(0, |m, key| m | key.prefilter_mask());
    let before = prefilter.get(&0, 0).map_err(failed)?;
    prefilter.set(0, before | exact, 0).map_err(failed)?;
    for (key, value) in &wanted {
        table.insert(key, value, 0).map_err(failed)?;
    }
    remove(table, &stale)?;
    prefilter.set(0, exact, 0).map_err(failed)
}

fn remove(
    table: &mut HashMap<MapData, EndpointKey, Endpoint>,
    keys: &[EndpointKey],
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
        }
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
}
