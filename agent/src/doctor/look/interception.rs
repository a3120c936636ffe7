//! What of ours the kernel has: pins, programs, the endpoint table, marks on listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::super::facts::{CONNECT, Effective, Link, Pins, Place, Program, Seen};
use super::because;
use super::processes::Held;
use crate::intercept::{self, InterceptError, Mode, Trial, environment, pinned};
use crate::sys::bpf::query::{self, LinkAt};
use crate::sys::{bpf, pidfd::PidFd};

/// Attach types of cgroups at which a program of ours runs, or could (`enum bpf_attach_type`): egress, socket creation,
/// sock_ops, bind, connect, sendmsg, getpeername, release.
const ATTACH_TYPES: [u32; 12] = [1, 2, 3, 8, 9, 10, 11, 14, 15, 29, 30, 34];

/// The cgroup that should be guarded, and its id.
pub(super) fn root(configured: Option<&Path>) -> Seen<(PathBuf, u64)> {
    let found = environment::Cgroup2::find().map_err(|e| e.to_string())?;
    let root = configured.unwrap_or(&found.mount_point);
    let root = fs::canonicalize(root).map_err(because(root.display()))?;
    let id = environment::cgroup_id(&root).map_err(|e| e.to_string())?;
    Ok((root, id))
}

/// The programs of this binary, tried.
pub(super) fn trial(port: u16) -> Seen<Result<Trial, String>> {
    match intercept::trial(port) {
        Ok(trial) => Ok(Ok(trial)),
        Err(error @ (InterceptError::MissingFeature { .. } | InterceptError::NoBtf { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Everything that is pinned.
pub(super) fn pins(directory: &Path) -> Seen<Option<Pins>> {
    let Some(layouts) = entries(directory)? else {
        return Ok(None);
    };
    let mut pins = Pins::default();
    for layout in layouts {
        pins.layouts.push(name(&layout));
        for pin in entries(&layout.join("links"))?.unwrap_or_default() {
            let place = pin.display();
            let link = bpf::open_pinned(&pin).map_err(because(&place))?;
            let (program, at) = query::link(link.as_fd()).map_err(because(&place))?;
            let place = match at {
                LinkAt::Cgroup { id, attach_type } => Place::Cgroup { id, attach_type },
                LinkAt::Interface(index) => Place::Interface { index },
                LinkAt::Other(kind) => Place::Other { kind },
            };
            pins.links.push(Link {
                pin: name(&pin),
                program,
                place,
            });
        }
    }
    // A directory alone guards nothing: systemd's unit makes it before the first start.
    Ok((!pins.layouts.is_empty()).then_some(pins))
}

/// What a directory has, sorted; `None` where there is none.
fn entries(directory: &Path) -> Seen<Option<Vec<PathBuf>>> {
    let found = match fs::read_dir(directory) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(because(directory.display())(e)),
    };
    let mut found: Vec<PathBuf> = found.flatten().map(|e| e.path()).collect();
    found.sort_unstable();
    Ok(Some(found))
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// All programs of this kernel.
pub(super) fn programs() -> Seen<BTreeMap<u32, Program>> {
    let mut all = BTreeMap::new();
    for program in aya::programs::loaded_programs() {
        let program = program.map_err(because("reading the kernel's programs"))?;
        let name = program.name_as_str().unwrap_or("?").to_owned();
        let tag = program.tag();
        all.insert(program.id(), Program { name, tag });
    }
    Ok(all)
}

/// What runs for sockets of the guarded cgroup.
pub(super) fn effective(root: &Seen<(PathBuf, u64)>) -> Seen<Vec<Effective>> {
    let (path, _) = root.as_ref().map_err(Clone::clone)?;
    let cgroup = File::open(path).map_err(because(path.display()))?;
    let mut all = Vec::new();
    for attach_type in ATTACH_TYPES {
        match query::effective(cgroup.as_fd(), attach_type) {
            Ok(programs) => all.push(Effective {
                attach_type,
                programs,
            }),
            // A kernel that doesn't know the attach type runs nothing there.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(because(path.display())(e)),
        }
    }
    Ok(all)
}

/// What is attached for `connect()` at cgroups below the guarded one.
pub(super) fn below(root: &Seen<(PathBuf, u64)>) -> Seen<Vec<(String, Effective)>> {
    let (root, _) = root.as_ref().map_err(Clone::clone)?;
    let mut found = Vec::new();
    let mut folders = folders(root)?;
    while let Some(folder) = folders.pop() {
        // Cgroups come and go.
        let Ok(cgroup) = File::open(&folder) else {
            continue;
        };
        for attach_type in CONNECT {
            let programs = query::attached(cgroup.as_fd(), attach_type).unwrap_or_default();
            if !programs.is_empty() {
                let name = folder.strip_prefix(root).unwrap_or(&folder);
                let at = Effective {
                    attach_type,
                    programs,
                };
                found.push((format!("/{}", name.display()), at));
            }
        }
        folders.extend(self::folders(&folder).unwrap_or_default());
    }
    Ok(found)
}

fn folders(below: &Path) -> Seen<Vec<PathBuf>> {
    let entries = entries(below)?.unwrap_or_default();
    Ok(entries.into_iter().filter(|e| e.is_dir()).collect())
}

/// The kernel's table of endpoints; none where nothing is pinned.
pub(crate) fn endpoints(directory: &Path) -> Seen<Vec<(SocketAddr, Mode)>> {
    let Some(layouts) = entries(directory)? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for layout in layouts {
        all.extend(pinned::endpoints(&layout).map_err(|e| e.to_string())?);
    }
    all.sort_unstable_by_key(|(address, _)| *address);
    all.dedup();
    Ok(all)
}

/// Whether each of these listeners carries the guard's mark. A copy of it is taken from its holder, and asked about.
pub(super) fn marked(
    directory: &Path,
    held: &BTreeMap<u64, Held>,
    listeners: &BTreeSet<u64>,
) -> Seen<BTreeMap<u64, Seen<bool>>> {
    let layouts = entries(directory)?.unwrap_or_default();
    let marks = layouts.iter().map(|layout| pinned::listener_marks(layout));
    let marks = marks
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let asked = listeners.iter().map(|inode| {
        let at = held
            .get(inode)
            .ok_or_else(|| "its holder can't be found".to_owned());
        (*inode, at.and_then(|at| is_marked(&marks, at)))
    });
    Ok(asked.collect())
}

fn is_marked(marks: &[OwnedFd], at: &Held) -> Seen<bool> {
    let copy = PidFd::open(at.holder.pid).and_then(|process| process.descriptor(at.descriptor));
    let copy = copy.map_err(because(format!(
        "a listener of {} (pid {})",
        at.holder.name, at.holder.pid
    )))?;
    for map in marks {
        let mark = bpf::lookup_u32(map.as_fd(), copy.as_fd()).map_err(because("the marks"))?;
        if mark == Some(imds_guard_ebpf::LISTENER_MARK) {
            return Ok(true);
        }
    }
    Ok(false)
}
