//! What around the layers could lead round them: interfaces, addresses, routes, translations, settings.

use super::super::facts::{Facts, Interface, Route, Space};
use super::super::finding::{Finding, State};
use super::Guarded;

/// Physical interfaces in other network namespaces.
pub(super) fn moved(facts: &Facts) -> Finding {
    const CHECK: &str = "uplinks-moved";
    let spaces = match &facts.spaces {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(spaces) => spaces,
    };
    let mut found = Vec::new();
    for space in spaces.iter().skip(1) {
        let physical = space
            .interfaces
            .iter()
            .filter_map(|i| Some((i, i.device.as_ref()?)));
        found
            .extend(physical.map(|(i, device)| format!("{} ({device}) in {}", i.name, space.name)));
    }
    if found.is_empty() {
        return Finding::ok(
            CHECK,
            "no physical interface is in another network namespace",
        );
    }
    Finding::weak(
        CHECK,
        "physical interfaces are in other network namespaces",
        "connections made there are steered all the same; raw packets meet no guard on that interface",
        "move them back, or drop CAP_NET_RAW from what runs there",
    )
    .about(found)
}

/// Interfaces that share another one's wire.
pub(super) fn macvlan(facts: &Facts) -> Finding {
    const CHECK: &str = "macvlan";
    let spaces = match &facts.spaces {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(spaces) => spaces,
    };
    let mut state = State::Ok;
    let mut found = Vec::new();
    for space in spaces {
        for interface in &space.interfaces {
            let weight = match interface.kind.as_deref() {
                // A guest behind it: its frames go to the wire without meeting the host's connect hooks or IP layer.
                Some("macvtap" | "ipvtap") => State::Open,
                Some("macvlan" | "ipvlan") => State::Weak,
                _ => continue,
            };
            state = state.max(weight);
            found.push(described(interface, space, spaces));
        }
    }
    if found.is_empty() {
        return Finding::ok(CHECK, "none");
    }
    Finding::new(
        CHECK,
        state,
        "interfaces share the wire of another one",
        "connections of processes behind them are steered all the same; raw packets, and guests behind macvtap, are not",
        "use a bridge or a routed interface instead, or accept this",
    )
    .about(found)
}

fn described(interface: &Interface, space: &Space, spaces: &[Space]) -> String {
    let below = interface.below.and_then(|(index, elsewhere)| {
        // The index of a lower interface elsewhere is that of the namespace it was made in: mostly the host's.
        let space = if elsewhere { spaces.first()? } else { space };
        space.interfaces.iter().find(|i| i.index == index)
    });
    let below = below.map_or("?", |i| i.name.as_str());
    let kind = interface.kind.as_deref().unwrap_or("?");
    format!("{} ({kind} on {below}) in {}", interface.name, space.name)
}

/// A metadata address on an interface of this host.
pub(super) fn addresses(facts: &Facts, guarded: &Guarded) -> Finding {
    const CHECK: &str = "addresses";
    let here = match facts.here() {
        Ok(here) => here,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let taken = here
        .addresses
        .iter()
        .filter(|(own, _)| guarded.addresses().any(|a| a == *own));
    let taken: Vec<String> = taken.map(|(own, on)| format!("{own} on {on}")).collect();
    if taken.is_empty() {
        return Finding::ok(
            CHECK,
            "no interface of this host carries a metadata address",
        );
    }
    Finding::weak(
        CHECK,
        "interfaces of this host carry metadata addresses",
        "whoever listens there gets what isn't steered: the proxy's own requests, guests', and those in observe or audit",
        "remove the address (`ip address del`), and find who added it: that takes CAP_NET_ADMIN",
    )
    .about(taken)
}

/// Routes made for a metadata address that lead neither to an uplink nor nowhere.
pub(super) fn routes(facts: &Facts, guarded: &Guarded) -> Finding {
    const CHECK: &str = "routes";
    /// Of the routing table that the kernel itself fills with a host's own addresses (rt_tables: `local`).
    const LOCAL: u32 = 255;
    let here = match facts.here() {
        Ok(here) => here,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let uplink = |name: &str| {
        let physical = here
            .interfaces
            .iter()
            .any(|i| i.name == name && i.device.is_some());
        physical || here.defaults.iter().any(|d| d == name)
    };
    // For an address of its own the kernel makes a route to it; the check of addresses tells that.
    let own = |r: &Route| {
        let whole = if r.to.is_ipv4() { 32 } else { 128 };
        r.prefix == whole && here.addresses.iter().any(|(own, _)| *own == r.to)
    };
    let elsewhere = here
        .routes
        .iter()
        .filter(|r| r.table != LOCAL && guarded.within(r.to, r.prefix) && !own(r));
    let elsewhere = elsewhere.filter(|r| r.local || !r.interface.as_deref().is_some_and(uplink));
    let found: Vec<String> = elsewhere
        .map(|r| {
            let to = r.interface.as_deref().unwrap_or("?");
            format!("{}/{} by {to}, table {}", r.to, r.prefix, r.table)
        })
        .collect();
    if found.is_empty() {
        return Finding::ok(
            CHECK,
            "none leads a metadata address elsewhere than to an uplink",
        );
    }
    Finding::weak(
        CHECK,
        "routes lead metadata addresses to something else than an uplink",
        "what isn't steered (the proxy's own requests, guests', endpoints in observe or audit) goes to whoever is there",
        "remove the route, and find who added it: that takes CAP_NET_ADMIN",
    )
    .about(found)
}

/// Policy rules for a metadata address.
pub(super) fn rules(facts: &Facts, guarded: &Guarded) -> Finding {
    const CHECK: &str = "rules";
    let here = match facts.here() {
        Ok(here) => here,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let found = here.rules.iter().filter(|r| guarded.within(r.to, r.prefix));
    let found: Vec<String> = found
        .map(|r| format!("to {}/{}: table {}", r.to, r.prefix, r.table))
        .collect();
    if found.is_empty() {
        return Finding::ok(CHECK, "no routing policy rule names a metadata address");
    }
    Finding::weak(
        CHECK,
        "routing policy rules name metadata addresses",
        "what isn't steered may leave by another way than the guarded uplinks",
        "remove them (`ip rule del`), or accept this if they are yours",
    )
    .about(found)
}

/// Rules of netfilter that aren't ours and name a metadata address.
pub(super) fn nat(facts: &Facts) -> Finding {
    const CHECK: &str = "netfilter";
    let found = match &facts.foreign_rules {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(found) => found,
    };
    if found.is_empty() {
        return Finding::ok(CHECK, "no rule but ours names a metadata address");
    }
    Finding::weak(
        CHECK,
        "rules of others name metadata addresses",
        "a dnat sends what isn't steered to somebody else; a drop meant for callers no longer meets steered connections",
        "remove what another metadata proxy left behind; what was a drop belongs into policy now",
    )
    .about(found.clone())
}

/// Whether loopback can be reached from other machines.
pub(super) fn route_localnet(facts: &Facts) -> Finding {
    const CHECK: &str = "route-localnet";
    let on = match &facts.route_localnet {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(on) => on,
    };
    if on.is_empty() {
        return Finding::ok(CHECK, "off on every interface");
    }
    Finding::weak(
        CHECK,
        "on: packets for 127.0.0.0/8 are accepted from other machines",
        "they reach the listener, which refuses them for lack of a record, and the issuer's address",
        "sysctl net.ipv4.conf.NAME.route_localnet=0, or drop 127.0.0.0/8 from interfaces other than lo",
    )
    .about(on.clone())
}

/// Whether our port may be given to anybody who asks for none in particular.
pub(super) fn port_range(facts: &Facts) -> Finding {
    const CHECK: &str = "port-range";
    let port = facts.port;
    match &facts.port_range {
        Err(why) => Finding::unknown(CHECK, why),
        Ok((first, last, reserved)) if (*first..=*last).contains(&port) && !reserved => {
            Finding::weak(
                CHECK,
                format!("port {port} is among those given out freely ({first} to {last})"),
                "while the guard is away, any connection may be given it, and the guard can't start then",
                format!("sysctl net.ipv4.ip_local_reserved_ports={port}, or another --port"),
            )
        }
        Ok((first, last, _)) => Finding::ok(
            CHECK,
            format!("port {port} isn't given out freely ({first} to {last})"),
        ),
    }
}
