//! `[[guest]]`: who is behind which interface of the host. Data, and the reading of its words; which interfaces exist is the
//! business of whoever looks.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of an interface: `IFNAMSIZ` without its NUL.
const INTERFACE_LIMIT: usize = 15;

/// One guest, or all behind interfaces whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The interface, a tap or a port of a bridge; with `*` at its end each one that begins so is a guest of its own.
    pub interface: Arc<str>,
    /// The value of its `vm:id`; none: the name of the interface.
    pub id: Option<Arc<str>>,
    /// All that it may send from. Empty: not checked.
    pub addresses: Vec<Network>,
    /// The only link-layer address that it may send from. None: not checked.
    pub mac: Option<Mac>,
}

impl Guest {
    /// What the interface's name has to begin with, where several are meant.
    pub fn prefix(&self) -> Option<&str> {
        self.interface.strip_suffix('*')
    }

    /// Whether `name` can be an interface's: letters, digits, `.`, `_`, `-`, at most 15. The kernel takes more; what goes
    /// into packet filter rules is kept plain.
    pub fn names_interface(name: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        !name.is_empty()
            && name.len() <= INTERFACE_LIMIT
            && name.bytes().all(plain)
            && name != "."
            && name != ".."
    }

    /// The guest of the interface `name`: the one that says just that name, else the longest beginning.
    pub fn of<'a>(all: &'a [Self], name: &str) -> Option<&'a Self> {
        let begins = |guest: &&Self| {
            guest
                .prefix()
                .is_some_and(|prefix| name.starts_with(prefix))
        };
        let exact = all.iter().find(|guest| &*guest.interface == name);
        exact.or_else(|| {
            all.iter()
                .filter(begins)
                .max_by_key(|guest| guest.interface.len())
        })
    }
}

/// An address with the bits of it that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether it is of IPv6.
    pub fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// The bits that count, as a number, and how many they are.
    pub fn leading(self) -> (u128, u8) {
        let (number, width) = match self.address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        (number >> (width - self.bits), self.bits)
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let bits = if address.is_ipv6() { 128 } else { 32 };
        Self { address, bits }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(drop)?;
        let (width, number) = match address {
            IpAddr::V4(v4) => (32, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (128, u128::from(v6)),
        };
        let bits = bits.map_or(Ok(width), str::parse).map_err(drop)?;
        // Bits behind the mask are a typing error: which of the two was meant can't be known.
        let rest = number.checked_shl(u32::from(bits)).unwrap_or(0);
        let mapped = matches!(address, IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some());
        if bits == 0 || bits > width || rest != 0 || mapped || address.is_multicast() {
            return Err(());
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.is_ipv6() { 128 } else { 32 };
        write!(f, "{}", self.address)?;
        if self.bits == whole {
            return Ok(());
        }
        write!(f, "/{}", self.bits)
    }
}

/// A link-layer address of one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *byte = u8::from_str_radix(part, 16).map_err(drop)?;
        }
        // Addresses of groups are nobody's.
        if parts.next().is_some() || bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err(());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_they_are_read() {
        for text in ["10.0.0.2", "10.0.0.0/28", "fd00::2", "fd00::/64"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        for bad in [
            "10.0.0.2/28",
            "10.0.0.0/33",
            "0.0.0.0/0",
            "fd00::1/64",
            "::ffff:10.0.0.2",
            "224.0.0.1",
            "x",
            "10.0.0.2/",
            "10.0.0.2/+32x",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bits_that_count_are_the_leading_ones() {
        let leading = |text: &str| text.parse::<Network>().unwrap().leading();
        assert_eq!(leading("10.0.0.0/8"), (10, 8));
        assert_eq!(leading("fd00::/16"), (0xfd00, 16));
        assert_eq!(leading("::1"), (1, 128));
    }

    #[test]
    fn macs_are_written_as_they_are_read() {
        assert_eq!(
            "52:54:00:AA:0b:01".parse::<Mac>().unwrap().to_string(),
            "52:54:00:aa:0b:01"
        );
        for bad in [
            "52:54:00:aa:0b",
            "52:54:00:aa:0b:01:02",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "525400aa0b01",
            "52:54:00:aa:0b:1",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_plainest_name_wins() {
        let guest = |interface: &str| Guest {
            interface: interface.into(),
            id: None,
            addresses: vec![],
            mac: None,
        };
        let all = ["vnet*", "vnet1*", "vnet10"].map(guest);
        let of = |name| Guest::of(&all, name).map(|g| &*g.interface);
        assert_eq!(of("vnet10"), Some("vnet10"));
        assert_eq!(of("vnet11"), Some("vnet1*"));
        assert_eq!(of("vnet2"), Some("vnet*"));
        assert_eq!(of("eth0"), None);
    }
}
