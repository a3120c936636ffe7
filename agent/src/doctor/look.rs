//! Gathers the facts. Reads alone: attaches nothing, sends nothing to anybody but the kernel, changes nothing. What can't be
//! read says why; one thing that can't be read never hides another.

mod interception;
mod machine;
mod netlink;
mod processes;
mod settings;
mod spaces;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::facts::{Facts, Question, Seen, SocketKind, Space};
pub(crate) use interception::endpoints;
pub(crate) use machine::guard;
use processes::{Held, Processes};

/// Looks at everything.
#[must_use]
pub fn look(at: &Question) -> Facts {
    let endpoints = endpoints(&at.pin_dir);
    let interest: Vec<_> = match &endpoints {
        Ok(table) if !table.is_empty() => table.iter().map(|(address, _)| *address).collect(),
        _ => super::judge::shipped().collect(),
    };
    let Sight {
        processes,
        spaces,
        closed,
        held,
    } = twice(at.port, &interest);
    let listeners = inodes(&spaces, |kind| kind == SocketKind::Listener);
    let root = interception::root(at.cgroup_root.as_deref());
    let pins = interception::pins(&at.pin_dir);
    Facts {
        release: settings::release(),
        port: at.port,
        effective: interception::effective(&root),
        below: interception::below(&root),
        root,
        trial: interception::trial(at.port),
        noted: machine::noted(&at.run_dir),
        guests: crate::intercept::NotedGuests::find(&at.run_dir),
        tables: settings::tables(),
        pins,
        programs: interception::programs(),
        endpoints,
        bypasses: crate::status::bypasses(&at.pin_dir),
        guard: guard(&at.run_dir),
        spaces,
        closed,
        raw: processes.raw_power(),
        net_admin: processes.net_power(),
        marked: held
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|held| interception::marked(&at.pin_dir, held, &listeners)),
        holders: held.map(|held| {
            held.into_iter()
                .map(|(inode, at)| (inode, at.holder))
                .collect()
        }),
        devices: machine::devices(std::path::Path::new("/sys")),
        route_localnet: settings::route_localnet(),
        port_range: settings::port_range(at.port),
        ptrace_scope: settings::ptrace_scope(),
        vsock: machine::vsock(std::path::Path::new("/sys")),
        foreign_rules: settings::foreign_rules(&interest),
    }
}

/// Namespaces, and who holds the sockets in them, as of one moment or nearly.
struct Sight {
    processes: Processes,
    spaces: Seen<Vec<Space>>,
    closed: Vec<String>,
    held: Seen<BTreeMap<u64, Held>>,
}

impl Sight {
    fn take(port: u16, interest: &[SocketAddr]) -> Self {
        let (spaces, closed) = spaces::all(&Processes::list(), port, interest);
        // Anew: who made a socket meanwhile is a process, too.
        let processes = Processes::list();
        let held = processes.holders(&inodes(&spaces, |_| true));
        Self {
            processes,
            spaces,
            closed,
            held,
        }
    }
}

/// Looks twice where the holder of a socket isn't found: mostly it has ended between one look and the other. Sockets that
/// are nobody's in both are told.
fn twice(port: u16, interest: &[SocketAddr]) -> Sight {
    let first = Sight::take(port, interest);
    let all = inodes(&first.spaces, |_| true);
    let missing = |held: &BTreeMap<u64, Held>| all.iter().any(|inode| !held.contains_key(inode));
    if !first.held.as_ref().is_ok_and(missing) {
        return first;
    }
    let mut again = Sight::take(port, interest);
    if let (Ok(spaces), Ok(held)) = (&mut again.spaces, &again.held) {
        for space in spaces {
            // What only this look saw may be as short-lived.
            space
                .sockets
                .retain(|s| held.contains_key(&s.inode) || all.contains(&s.inode));
        }
    }
    again
}

/// Inodes of all sockets of these kinds.
fn inodes(spaces: &Seen<Vec<Space>>, of: impl Fn(SocketKind) -> bool) -> BTreeSet<u64> {
    let sockets = spaces.iter().flatten().flat_map(|space| &space.sockets);
    sockets
        .filter(|socket| of(socket.kind))
        .map(|socket| socket.inode)
        .collect()
}

/// Why something couldn't be looked at.
fn because<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// The contents of a small file; `None` where there is none.
fn read(path: &str) -> Seen<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{path}: {e}")),
    }
}
