//! Which processes may open raw sockets in the host's network namespace, where that is configured: by cgroup, those below
//! included.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use imds_guard_ebpf::map;

use super::{
    InterceptError,
    environment::{Cgroup2, cgroup_id},
    load, pins, take,
};

/// The configured cgroups, and the kernel's table of their ids.
pub(super) struct Allowed {
    cgroups: Vec<PathBuf>,
    table: HashMap<MapData, u64, u32>,
}

/// Puts the program in force, if `cgroups` are configured and the kernel takes it, or out of force.
pub(super) fn stand(
    ebpf: &mut Ebpf,
    pins: &mut pins::Pins,
    cgroups: Option<Vec<Arc<str>>>,
) -> (Result<(), String>, Option<Allowed>) {
    let Some(cgroups) = cgroups else {
        let off = "off: [hardening] raw_sockets says nothing".to_owned();
        let gone = pins.detach(load::RAW_SOCKET);
        return (Err(gone.map_or_else(|e| e.to_string(), |()| off)), None);
    };
    match put(ebpf, pins, &cgroups) {
        Ok(allowed) => (Ok(()), Some(allowed)),
        Err(why) => (Err(why.to_string()), None),
    }
}

fn put(
    ebpf: &mut Ebpf,
    pins: &mut pins::Pins,
    cgroups: &[Arc<str>],
) -> Result<Allowed, InterceptError> {
    let mount = Cgroup2::find()?.mount_point;
    let below = |name: &Arc<str>| mount.join(name.trim_start_matches('/'));
    let mut allowed = Allowed {
        cgroups: cgroups.iter().map(below).collect(),
        table: take(ebpf, map::RAW_SOCKETS)?,
    };
    load::load_optional(ebpf, load::RAW_SOCKET)?;
    allowed.refresh();
    pins.attach_lsm(ebpf, load::RAW_SOCKET)?;
    Ok(allowed)
}

impl Allowed {
    /// Makes the kernel's table what the cgroups' ids are now. One that isn't there has no processes either.
    pub(super) fn refresh(&mut self) {
        let ids = self.cgroups.iter().filter_map(|path| cgroup_id(path).ok());
        let wanted: BTreeSet<u64> = ids.collect();
        let before: BTreeSet<u64> = self.table.keys().filter_map(Result::ok).collect();
        let removed = before.difference(&wanted).map(|id| self.table.remove(id));
        let removed: Result<Vec<()>, _> = removed.collect();
        let added = wanted
            .difference(&before)
            .map(|id| self.table.insert(id, 1, 0));
        let added: Result<Vec<()>, _> = added.collect();
        if let Err(error) = removed.and(added) {
            tracing::warn!(%error, "the table of cgroups that may have raw sockets can't be written");
        }
    }
}
