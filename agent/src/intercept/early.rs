//! Before the guard runs, and before there is a network: the programs alone, with nobody who listens. What is enforced is refused; what
//! is in audit or observe passes. Whoever must ask the metadata service at that time (cloud-init) is named by unit: the cgroup of
//! that unit is made here, and the kernel lets connects out of it pass until the guard takes over.
//!
//! A cgroup's number is never given twice, so an exception is for one run of the unit; a unit that is started again has a new one.

use std::path::Path;
use std::{fs, io};

use aya::maps::{HashMap, MapData};
use imds_guard_ebpf::map;

use super::{
    InterceptError, Interceptor, Settings, embedded, environment, load, optional, pins, take,
};

/// Where the system's services have their cgroups.
const SERVICES: &str = "system.slice";

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// In force.
    Guarding,
    /// A guard has run since boot: what it has in force stands.
    GuardedAlready,
}

/// Puts the programs in force, without anybody who listens. `units`: services that may pass until the guard runs.
///
/// # Errors
/// [`InterceptError`]; nothing is left behind then.
pub fn early(settings: &Settings, units: &[String]) -> Result<Early, InterceptError> {
    let root = environment::attach_root(settings.cgroup_root.as_deref())?;
    let mut pins = match pins::Pins::open(&settings.pin_dir) {
        Ok(pins) if pins.is_fresh() => pins,
        Ok(_) | Err(InterceptError::PinsHeld { .. }) => return Ok(Early::GuardedAlready),
        Err(error) => return Err(error),
    };
    let parameters = load::Parameters {
        port: settings.port,
        issuer: super::endpoints::issuer(settings.issuer, super::namespaces::cookie_here()?),
        passage: super::uplinks::no_passage(),
    };
    let maps = pins.maps();
    let mut ebpf = load::load(embedded(), &parameters, Some(&maps))?;
    let mut interceptor = Interceptor::with_maps(&mut ebpf, &maps, settings.port, true)?;
    interceptor.set_endpoints(&settings.endpoints)?;
    pass(take(&mut ebpf, map::EARLY)?, &root, units)?;
    pins.attach(&mut ebpf, &root)?;
    for standing in optional(&mut ebpf, &mut pins, &root) {
        tracing::debug!(layer = standing.layer, absent = standing.absent, "early");
    }
    interceptor.refresh_filters()?;
    pins.commit()?;
    Ok(Early::Guarding)
}

fn pass(
    mut table: HashMap<MapData, u64, u32>,
    root: &Path,
    units: &[String],
) -> Result<(), InterceptError> {
    for unit in units {
        let cgroup = root.join(SERVICES).join(unit);
        fs::create_dir_all(&cgroup).map_err(InterceptError::system("making a unit's cgroup"))?;
        let id = environment::cgroup_id(&cgroup)?;
        table.insert(id, 1, 0).map_err(|error| {
            InterceptError::system("writing the table of early units")(io::Error::other(error))
        })?;
        tracing::info!(unit, "may ask the real service until the guard runs");
    }
    Ok(())
}

/// The guard runs: nobody passes any more.
pub(super) fn is_over(mut table: HashMap<MapData, u64, u32>) {
    let passing: Vec<u64> = table.keys().flatten().collect();
    for id in passing {
        if let Err(error) = table.remove(&id) {
            tracing::error!(%error, "a unit that was let pass before the guard ran still is, whenever it doesn't");
        }
    }
}
