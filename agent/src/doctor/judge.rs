//! Facts become findings. Pure: no IO, no clock.

mod guests;
mod interception;
mod machine;
mod network;
mod power;

use std::net::{IpAddr, SocketAddr};

use imds_guard_core::policy::settings::SHIPPED;

use super::facts::Facts;
use super::finding::{Endpoint, Report, State};
use crate::intercept::Mode;

/// The names of all checks, in the order in which they are told in JSON.
pub const CHECKS: [&str; 25] = [
    "layers",
    "programs",
    "foreign-programs",
    "endpoints",
    "bypasses",
    "kernel",
    "guard",
    "listener",
    "namespaces",
    "connections",
    "guests",
    "net-raw",
    "net-admin",
    "packet-sockets",
    "pass-through",
    "ptrace-scope",
    "vsock",
    "uplinks-moved",
    "macvlan",
    "addresses",
    "routes",
    "rules",
    "netfilter",
    "route-localnet",
    "port-range",
];

/// Judges everything; findings whose check is in `accepted` don't count for the verdict.
#[must_use]
pub fn judge(facts: &Facts, accepted: &[String]) -> Report {
    let layers = interception::layers(facts);
    let guarded = Guarded::of(facts);
    let findings = vec![
        interception::standing(&layers),
        interception::programs(facts),
        interception::foreign(facts),
        interception::endpoints(facts),
        interception::bypasses(facts),
        machine::kernel(facts),
        machine::guard(facts),
        machine::listener(facts),
        machine::spaces(facts),
        machine::connections(facts, &guarded, &layers),
        guests::guests(facts),
        power::raw(facts),
        power::net_admin(facts),
        power::packet_sockets(facts),
        power::pass_through(facts),
        power::ptrace(facts),
        power::vsock(facts),
        network::moved(facts),
        network::macvlan(facts),
        network::addresses(facts, &guarded),
        network::routes(facts, &guarded),
        network::rules(facts, &guarded),
        network::nat(facts),
        network::route_localnet(facts),
        network::port_range(facts),
    ];
    let table = facts.endpoints.iter().flatten();
    let endpoints = table.map(|&(address, mode)| Endpoint {
        address,
        mode: word(mode),
    });
    let release = facts.release.clone();
    Report::new(release, layers, endpoints.collect(), findings, accepted)
}

/// The addresses that matter on this machine: what the kernel guards, and where that can't be read, all that are shipped.
struct Guarded(Vec<(SocketAddr, Mode)>);

impl Guarded {
    fn of(facts: &Facts) -> Self {
        match &facts.endpoints {
            Ok(table) if !table.is_empty() => Self(table.clone()),
            _ => Self(shipped().map(|address| (address, Mode::Enforce)).collect()),
        }
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|(address, _)| address.ip())
    }

    /// Whether connections to it may only come from the proxy.
    fn enforced(&self, address: SocketAddr) -> bool {
        self.0.contains(&(address, Mode::Enforce))
    }

    /// Whether the prefix covers one of the addresses.
    fn within(&self, to: IpAddr, prefix: u8) -> bool {
        self.addresses().any(|address| covers(to, prefix, address))
    }
}

/// Every address that imds-guard knows of.
pub(super) fn shipped() -> impl Iterator<Item = SocketAddr> {
    let all = SHIPPED.iter().flat_map(|(_, _, addresses)| *addresses);
    all.map(|&(address, port)| SocketAddr::new(address, port))
}

/// Whether `to`/`prefix` contains `address`.
fn covers(to: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let away = width.saturating_sub(u32::from(prefix));
        a.checked_shr(away).unwrap_or(0) == b.checked_shr(away).unwrap_or(0)
    };
    match (to, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// A mode as people write it.
pub(crate) fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Audit => "audit",
        Mode::Enforce => "enforce",
    }
}

/// The worst of several states.
fn worst(states: impl Iterator<Item = State>) -> State {
    states.max().unwrap_or(State::Unknown)
}

#[cfg(test)]
mod tests;
