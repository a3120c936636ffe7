//! What was looked at. Plain data, so that every judgement can be tried with every state of a machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::intercept::bypasses::Live;
use crate::intercept::layer::Standing;
use crate::intercept::{Mode, NotedGuests, Trial};

/// Something that was looked at, or why it couldn't be.
pub type Seen<T> = Result<T, String>;

/// Where things are on this machine: the same options as `run` has.
#[derive(Debug, Clone)]
pub struct Question {
    /// Where `run` pins.
    pub pin_dir: PathBuf,
    /// Where `run` has its lock.
    pub run_dir: PathBuf,
    /// The cgroup that should be guarded; `None`: the root of the hierarchy.
    pub cgroup_root: Option<PathBuf>,
    /// The listeners' port.
    pub port: u16,
}

/// Attach types of `connect()` (`enum bpf_attach_type`): connect4 and connect6.
pub(super) const CONNECT: [u32; 2] = [10, 11];

/// Everything.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// The listeners' port.
    pub port: u16,
    /// The cgroup that should be guarded: its directory and id.
    pub root: Seen<(PathBuf, u64)>,
    /// The programs of this binary, loaded to try the kernel and dropped again; the inner error is the kernel's refusal.
    pub trial: Seen<Result<Trial, String>>,
    /// What is pinned; `None`: there is no pin directory.
    pub pins: Seen<Option<Pins>>,
    /// What the guard noted of its layers at its start.
    pub noted: Vec<Standing>,
    /// What the guard noted of guests; `None`: nothing.
    pub guests: Option<NotedGuests>,
    /// Families in which netfilter has a table of ours.
    pub tables: Seen<Vec<String>>,
    /// Programs loaded in this kernel, by id: name and tag.
    pub programs: Seen<BTreeMap<u32, Program>>,
    /// Programs that run for sockets of the guarded cgroup, by attach type, in order.
    pub effective: Seen<Vec<Effective>>,
    /// Programs attached at cgroups below the guarded one, which run before ours, by cgroup; of [`CONNECT`] alone.
    pub below: Seen<Vec<(String, Effective)>>,
    /// The kernel's table of endpoints.
    pub endpoints: Seen<Vec<(SocketAddr, Mode)>>,
    /// Who passes for a while as if nothing were guarded.
    pub bypasses: Seen<Vec<Live>>,
    /// The guard that holds the run directory: its pid.
    pub guard: Seen<Option<u32>>,
    /// The network namespaces, this one first.
    pub spaces: Seen<Vec<Space>>,
    /// Namespaces that couldn't be entered, and why.
    pub closed: Vec<String>,
    /// Processes that can use raw sockets here.
    pub raw: Seen<Power>,
    /// Processes that rule a network namespace which others are in, too.
    pub net_admin: Seen<Power>,
    /// Who holds a socket of interest, by the socket's inode.
    pub holders: Seen<BTreeMap<u64, Holder>>,
    /// Whether each listener, by its inode, carries the guard's mark.
    pub marked: Seen<BTreeMap<u64, Seen<bool>>>,
    /// Physical network devices of the host that no namespace of ours has as a network interface.
    pub devices: Seen<Devices>,
    /// `net.ipv4.conf.*.route_localnet` that are on.
    pub route_localnet: Seen<Vec<String>>,
    /// `net.ipv4.ip_local_port_range`, first and last, and the reserved ports in it.
    pub port_range: Seen<(u16, u16, bool)>,
    /// `kernel.yama.ptrace_scope`; `None`: the kernel has no Yama.
    pub ptrace_scope: Seen<Option<u8>>,
    /// Transports of vsock that lead to the host, by driver.
    pub vsock: Seen<Vec<String>>,
    /// netfilter's rules, one line each with their place, that name a metadata address and are not ours.
    pub foreign_rules: Seen<Vec<String>>,
}

/// A BPF program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// As it calls itself (15 bytes at most).
    pub name: String,
    /// The kernel's digest of its instructions.
    pub tag: u64,
}

/// The pin directory.
#[derive(Debug, Clone, Default)]
pub struct Pins {
    /// Layouts found; a start leaves one.
    pub layouts: Vec<String>,
    /// Links of all layouts.
    pub links: Vec<Link>,
}

/// One pinned link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name of the pin.
    pub pin: String,
    /// The program behind it.
    pub program: u32,
    /// Where it is attached.
    pub place: Place,
}

/// Where a link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At a cgroup, by its id (0: it is gone) and attach type.
    Cgroup {
        /// Of the cgroup.
        id: u64,
        /// `enum bpf_attach_type`.
        attach_type: u32,
    },
    /// At an interface of some namespace (0: it is gone).
    Interface {
        /// Its index.
        index: u32,
    },
    /// Somewhere else (a kernel function, a security hook), by `enum bpf_link_type`.
    Other {
        /// That number.
        kind: u32,
    },
}

/// What runs for one attach type, in order: the guarded cgroup's own programs, then those of its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// Program ids.
    pub programs: Vec<u32>,
}

/// One network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Space {
    /// Inode of the namespace.
    pub inode: u64,
    /// How people find it: `this one`, a process, a name of `ip netns`.
    pub name: String,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Its addresses, each with its interface's name.
    pub addresses: Vec<(IpAddr, String)>,
    /// Its routes for less than everything.
    pub routes: Vec<Route>,
    /// Interfaces by which everything else leaves it.
    pub defaults: Vec<String>,
    /// Its policy rules for less than everything.
    pub rules: Vec<Rule>,
    /// Its sockets of interest.
    pub sockets: Vec<Socket>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The kind of a virtual one, as iproute2 calls it (`veth`, `macvlan`); `None`: a driver's own.
    pub kind: Option<String>,
    /// The interface that it sits on, and whether that is in another namespace.
    pub below: Option<(u32, bool)>,
    /// Bus and name of the physical device, e.g. `pci 0000:00:05.0`.
    pub device: Option<String>,
}

/// A route, not a default one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Interface that it leads to, where it leads to one.
    pub interface: Option<String>,
    /// Table.
    pub table: u32,
    /// Whether it leads to this host itself (`local`); routes that lead nowhere aren't among these.
    pub local: bool,
}

/// A policy rule with a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Destination.
    pub to: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The table that it leads to.
    pub table: u32,
}

/// A socket of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// What it is.
    pub kind: SocketKind,
    /// Its inode.
    pub inode: u64,
}

/// Kinds of sockets of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Listens on our port at the loopback.
    Listener,
    /// Connected to this metadata address.
    Connected(SocketAddr),
    /// AF_PACKET.
    Packet,
    /// SOCK_RAW, IPv4 or IPv6.
    Raw,
}

/// Who holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Whether its executable is this very binary.
    pub ours: bool,
    /// Its cgroup's directory; `None`: it can't be told.
    pub cgroup: Option<PathBuf>,
}

/// Processes of the initial user namespace whose permitted capabilities have one in question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Power {
    /// With CAP_SYS_ADMIN as well: these are the host's root, whom nothing here stops.
    pub roots: usize,
    /// Without: the ones that the layers are about.
    pub others: Vec<(u32, String)>,
    /// With the capability, and in namespaces that couldn't be read.
    pub unread: Vec<(u32, String)>,
}

/// Physical devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Network devices that a driver for pass-through holds: device and driver.
    pub passed_through: Vec<(String, String)>,
    /// Interfaces whose device has virtual functions: name and how many.
    pub virtual_functions: Vec<(String, u32)>,
}

impl Facts {
    /// The namespace that the doctor runs in: the host's, where it is called as it should be.
    pub(super) fn here(&self) -> Seen<&Space> {
        let spaces = self.spaces.as_ref().map_err(Clone::clone)?;
        spaces
            .first()
            .ok_or_else(|| "no network namespace was seen".to_owned())
    }
}
