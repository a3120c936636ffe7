//! All processes, read once: their namespaces, who has which power, who holds which socket.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::super::facts::{Holder, Power, Seen};
use super::because;
use crate::intercept::environment;

/// `PROC_USER_INIT_INO` of include/linux/proc_ns.h: the first user namespace.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Bits of capability sets, include/uapi/linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
    permitted: u64,
    /// Its effective user; `None`: not told.
    user: Option<u32>,
    /// Inode of its network namespace; `None`: it can't be read.
    pub(super) netns: Option<u64>,
    user_namespace: Option<u64>,
}

/// All that `/proc` shows.
#[derive(Debug)]
pub(super) struct Processes {
    pub(super) all: Seen<Vec<Process>>,
}

/// A socket in the hands of a process.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holder: Holder,
    /// Its number there.
    pub(super) descriptor: i32,
}

impl Processes {
    pub(super) fn list() -> Self {
        let pids = pids();
        // A process that ends while it is read drops out.
        Self {
            all: pids.map(|pids| pids.into_iter().filter_map(Process::read).collect()),
        }
    }

    /// Who can use raw sockets in this network namespace.
    pub(super) fn raw_power(&self) -> Seen<Power> {
        let here =
            inode("/proc/thread-self/ns/net").ok_or("our own network namespace can't be read")?;
        self.power(NET_RAW, |net, _| net == here)
    }

    /// Who rules a network namespace that processes of others are in as well: their connections run over a loopback that it can
    /// alter.
    pub(super) fn net_power(&self) -> Seen<Power> {
        let all = self.all.as_ref().map_err(Clone::clone)?;
        self.power(NET_ADMIN, |net, user| {
            all.iter()
                .any(|p| p.netns == Some(net) && p.user != Some(user))
        })
    }

    /// Holders of a capability in the first user namespace, where `counts` says so of their network namespace and their user.
    fn power(&self, capability: u64, counts: impl Fn(u64, u32) -> bool) -> Seen<Power> {
        let all = self.all.as_ref().map_err(Clone::clone)?;
        let mut power = Power::default();
        for process in all.iter().filter(|p| p.permitted & capability != 0) {
            match (process.netns, process.user_namespace, process.user) {
                (Some(net), Some(FIRST_USER_NAMESPACE), Some(user)) => {
                    if process.permitted & SYS_ADMIN != 0 {
                        power.roots += 1;
                    } else if counts(net, user) {
                        power.others.push((process.pid, process.name.clone()));
                    }
                }
                (Some(_), Some(_), _) => {}
                _ => power.unread.push((process.pid, process.name.clone())),
            }
        }
        Ok(power)
    }

    /// Who holds these sockets. Where nobody is found, there is no entry: it may be held by nobody (closing), or by a
    /// process whose descriptors can't be read.
    pub(super) fn holders(&self, sockets: &BTreeSet<u64>) -> Seen<BTreeMap<u64, Held>> {
        let mut found = BTreeMap::new();
        if sockets.is_empty() {
            return Ok(found);
        }
        let ours = inode("/proc/self/exe");
        for process in self.all.as_ref().map_err(Clone::clone)? {
            let pid = process.pid;
            let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            for descriptor in descriptors.flatten() {
                let link = fs::read_link(descriptor.path()).unwrap_or_default();
                let number = descriptor.file_name().to_string_lossy().parse();
                let socket = link
                    .to_str()
                    .and_then(socket_inode)
                    .filter(|i| sockets.contains(i));
                if let (Some(socket), Ok(descriptor)) = (socket, number) {
                    let holder = Holder {
                        pid,
                        name: process.name.clone(),
                        ours: ours.is_some() && inode(&format!("/proc/{pid}/exe")) == ours,
                        cgroup: cgroup(pid),
                    };
                    let held = Held { holder, descriptor };
                    // The service manager may keep one of ours for the next guard.
                    match found.entry(socket) {
                        Entry::Occupied(mut other) if held.holder.ours => {
                            other.insert(held);
                        }
                        Entry::Occupied(_) => {}
                        Entry::Vacant(none) => {
                            none.insert(held);
                        }
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        // The dead hold nothing.
        if field("State:")?.starts_with(['Z', 'X']) {
            return None;
        }
        Some(Self {
            pid,
            name: field("Name:")?.to_owned(),
            permitted: u64::from_str_radix(field("CapPrm:")?, 16).ok()?,
            user: field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()),
            netns: namespace(pid, "net")?,
            user_namespace: namespace(pid, "user")?,
        })
    }
}

/// A namespace of a process; `None`: it has ended meanwhile; `Some(None)`: we may not know.
fn namespace(pid: u32, kind: &str) -> Option<Option<u64>> {
    match fs::metadata(format!("/proc/{pid}/ns/{kind}")) {
        Ok(namespace) => Some(Some(namespace.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Some(None),
        Err(_) => None,
    }
}

fn pids() -> Seen<Vec<u32>> {
    let entries = fs::read_dir("/proc").map_err(because("/proc"))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// The inode of what a path leads to. (Device numbers are left out: namespaces are all on one.)
pub(super) fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.ino())
}

fn cgroup(pid: u32) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    environment::Cgroup2::find().ok()?.directory(&cgroups)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn we_are_among_them_and_hold_our_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let socket = socket_inode(link.to_str().unwrap()).unwrap();
        let processes = Processes::list();
        let held = processes.holders(&BTreeSet::from([socket])).unwrap();
        let held = &held[&socket];
        assert_eq!(held.holder.pid, std::process::id());
        assert_eq!(held.descriptor, listener.as_raw_fd());
        assert!(held.holder.ours);
    }

    #[test]
    fn only_a_socket_is_a_socket() {
        assert_eq!(socket_inode("socket:[77]"), Some(77));
        assert_eq!(socket_inode("pipe:[77]"), None);
    }
}
