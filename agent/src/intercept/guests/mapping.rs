//! Which of the configured guests are there: the policy's `[[guest]]` tables laid against the host's interfaces. Pure.

use std::sync::Arc;

use imds_guard_core::policy::settings::{Guest, Mac, Network};

use super::links::Link;

/// One guest that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) id: Arc<str>,
    pub(super) interface: Arc<str>,
    /// Of the interface that its frames come in at.
    pub(super) index: u32,
    /// Where its interface is a port.
    pub(super) bridge: Option<Bridge>,
    pub(super) addresses: Vec<Network>,
    pub(super) mac: Option<Mac>,
}

/// The bridge of a guest's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// Indices of its other ports.
    pub(super) others: Vec<u32>,
}

impl Mapping {
    /// The interface at which its packets reach the host's IP: its own, or the bridge.
    pub(super) fn ingress(&self) -> u32 {
        self.bridge
            .as_ref()
            .map_or(self.index, |bridge| bridge.index)
    }

    /// Whether it is the same guest at the same place. (Ports that come and go beside it don't make it another, nor does the
    /// bridge's own address, which may change with them.)
    pub(super) fn is(&self, other: &Self) -> bool {
        let place = |m: &Self| m.bridge.as_ref().map(|b| b.index);
        (&self.id, &self.interface, self.index) == (&other.id, &other.interface, other.index)
            && place(self) == place(other)
    }
}

/// The guests that are there, and what keeps others from being served, in words.
pub(super) fn map(configured: &[Guest], links: &[Link]) -> (Vec<Mapping>, Vec<String>) {
    let (mut there, mut faults) = (vec![], vec![]);
    for link in links {
        let Some(guest) = Guest::of(configured, &link.name) else {
            continue;
        };
        match one(guest, link, links) {
            Ok(mapping) => there.push(mapping),
            Err(why) => faults.push(format!("the guest at {} is not served: {why}", link.name)),
        }
    }
    let missing = configured.iter().filter(|guest| {
        guest.prefix().is_none() && !links.iter().any(|link| *link.name == *guest.interface)
    });
    faults.extend(missing.map(|guest| {
        let name = &guest.interface;
        format!("the guest at {name} is not served: there is no such interface; it will be served once there is")
    }));
    (there, faults)
}

fn one(guest: &Guest, link: &Link, links: &[Link]) -> Result<Mapping, &'static str> {
    if link.name == "lo" {
        return Err("that is the host itself");
    }
    if !Guest::names_interface(&link.name) {
        return Err("its name holds other characters than letters, digits, `.`, `_` and `-`");
    }
    let bridge = link
        .master
        .map(|master| bridge(master, link, links))
        .transpose()?;
    if bridge.is_some() && (guest.mac.is_none() || guest.addresses.is_empty()) {
        return Err(
            "it is a port of a bridge, where a neighbour could take its answers: say its `mac` and `address`",
        );
    }
    Ok(Mapping {
        id: guest
            .id
            .clone()
            .unwrap_or_else(|| link.name.as_str().into()),
        interface: link.name.as_str().into(),
        index: link.index,
        bridge,
        addresses: guest.addresses.clone(),
        mac: guest.mac,
    })
}

fn bridge(master: u32, port: &Link, links: &[Link]) -> Result<Bridge, &'static str> {
    let bridge = links.iter().find(|link| link.index == master);
    let bridge = bridge.filter(|link| link.kind.as_deref() == Some("bridge"));
    let bridge = bridge.ok_or("it is part of another interface that is no bridge")?;
    let ports = links.iter().filter(|link| link.master == Some(master));
    Ok(Bridge {
        index: master,
        mac: bridge.mac.ok_or("its bridge has no address")?.into(),
        others: ports
            .map(|link| link.index)
            .filter(|index| *index != port.index)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, master: Option<u32>, kind: &str) -> Link {
        Link {
            index,
            name: name.into(),
            master,
            mac: Some([2, 0, 0, 0, 0, 1]),
            kind: Some(kind.into()),
        }
    }

    fn guest(interface: &str, known: bool) -> Guest {
        Guest {
            interface: interface.into(),
            id: None,
            addresses: known
                .then(|| "10.0.0.2".parse().unwrap())
                .into_iter()
                .collect(),
            mac: known.then(|| "52:54:00:00:00:01".parse().unwrap()),
        }
    }

    #[test]
    fn a_tap_needs_its_name_alone_and_a_port_what_it_is_known_by() {
        let links = [
            link(2, "br0", None, "bridge"),
            link(3, "tap0", None, "tun"),
            link(4, "vnet0", Some(2), "tun"),
            link(5, "vnet1", Some(2), "tun"),
            link(6, "vrf0", None, "vrf"),
            link(7, "tap1", Some(6), "tun"),
        ];
        let configured = [
            guest("tap*", false),
            guest("vnet0", true),
            guest("vnet1", false),
            guest("gone", false),
        ];
        let (there, faults) = map(&configured, &links);
        let names: Vec<_> = there
            .iter()
            .map(|m| (&*m.id, m.index, m.ingress()))
            .collect();
        assert_eq!(names, [("tap0", 3, 3), ("vnet0", 4, 2)]);
        assert_eq!(there[1].bridge.as_ref().unwrap().others, [5]);
        for (fault, word) in faults.iter().zip(["mac", "no bridge", "no such interface"]) {
            assert!(fault.contains(word), "{fault}");
        }
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn another_index_or_bridge_is_another_place() {
        let at = |index, bridge| {
            let links = [
                link(bridge, "br0", None, "bridge"),
                link(index, "vnet0", Some(bridge), "tun"),
                link(90, "other", Some(bridge), "tun"),
            ];
            map(&[guest("vnet0", true)], &links).0.remove(0)
        };
        let mut fewer = at(5, 2);
        fewer.bridge.as_mut().unwrap().others.clear();
        assert!(at(5, 2).is(&fewer));
        assert!(!at(5, 2).is(&at(6, 2)));
        assert!(!at(5, 2).is(&at(5, 3)));
    }
}
