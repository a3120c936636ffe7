//! Reading what is pinned, without taking it over: for those who ask what is in force.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
};

use aya::maps::{HashMap, Map, MapData};
use imds_guard_ebpf::{Endpoint, EndpointKey, Mode, map};

use super::InterceptError;
use crate::sys::bpf;

/// The endpoint table pinned in the directory of one layout.
///
/// # Errors
/// [`InterceptError::NotPermitted`], and where the table is of a layout that this version doesn't know.
pub fn endpoints(layout: &Path) -> Result<Vec<(SocketAddr, Mode)>, InterceptError> {
    let wrong = |e: &dyn std::fmt::Display| InterceptError::WrongObject {
        detail: format!("map {}: {e}", map::ENDPOINTS),
    };
    let pin = layout.join("maps").join(map::ENDPOINTS);
    let pinned = MapData::from_pin(pin).map_err(|e| wrong(&e))?;
    let table = HashMap::<_, EndpointKey, Endpoint>::try_from(Map::HashMap(pinned));
    let table = table.map_err(|e| wrong(&e))?;
    let mut all = Vec::new();
    for entry in table.iter() {
        let (key, endpoint) = entry.map_err(|e| wrong(&e))?;
        let address = IpAddr::from(key.address).to_canonical();
        let port = u16::try_from(key.port).map_err(|e| wrong(&e))?;
        all.push((SocketAddr::new(address, port), mode(endpoint.mode)));
    }
    Ok(all)
}

/// As the kernel programs read it: what they don't know, they enforce.
fn mode(number: u32) -> Mode {
    let known = [Mode::Observe, Mode::Audit];
    let found = known.into_iter().find(|mode| *mode as u32 == number);
    found.unwrap_or(Mode::Enforce)
}

/// The map of marks on listeners, pinned in the directory of one layout.
///
/// # Errors
/// [`InterceptError::NotPermitted`], [`InterceptError::System`].
pub fn listener_marks(layout: &Path) -> Result<OwnedFd, InterceptError> {
    bpf::open_pinned_readonly(&layout.join("maps").join(map::LISTENERS))
        .map_err(InterceptError::system("opening the map of listeners"))
}
