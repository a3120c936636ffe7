//! What kernel and user space share: the one definition of every struct, key, counter and map name.
//!
//! Owns layouts. Must never hold logic that only one side needs, and never change a layout without raising
//! [`ABI_VERSION`]: pinned maps outlive the process, and a new program must not read an old layout.
//!
//! Every struct is `repr(C)` without implicit padding (the assertions at the end), because the verifier refuses
//! uninitialised padding in map values and keys, and because keys are compared byte by byte.
#![cfg_attr(target_arch = "bpf", no_std)]

/// Raised whenever the layout or the meaning of anything in a pinned map changes.
pub const ABI_VERSION: u32 = 4;

mod exception;
pub mod map;

pub use exception::{ANY_USER, Bypass, Lifeline, Pass, Scope};

/// Read-only globals that the loader sets.
pub mod global {
    /// `u16`, host order: the port of the guard's listeners.
    pub const PROXY_PORT: &str = "PROXY_PORT";
    /// [`Offsets`](super::Offsets) of the running kernel.
    pub const OFFSETS: &str = "OFFSETS";
    /// `u32`: inode of the pid namespace whose numbers are recorded, or 0 for the first one, of which all others are parts.
    pub const PID_NAMESPACE: &str = "PID_NAMESPACE";
    /// [`Issuer`](super::Issuer): where the embedded issuer listens.
    pub const ISSUER: &str = "ISSUER";
    /// [`Passage`](super::Passage): what the proxy's own packets carry from the socket to the uplink.
    pub const PASSAGE: &str = "PASSAGE";
    /// `u32`: inode of the guard's network namespace.
    pub const HOST_NETNS: &str = "HOST_NETNS";
}

/// Value of a listener's entry in [`map::LISTENERS`].
pub const LISTENER_MARK: u32 = 1;
/// Bit of a mark in [`map::UPSTREAM`]: given to who may pass before the guard runs, and worth nothing from then on.
pub const EARLY_MARK: u32 = 1 << 31;
/// Value of a network namespace in [`map::NAMESPACES`] whose listener stands: its sockets are nothing new.
pub const STANDING: u64 = u64::MAX;
/// Value of the entry of the issuer's listener: it may take its port, and nothing is steered to it.
pub const ISSUER_MARK: u32 = 2;
/// Index of `lo` in each network namespace (`LOOPBACK_IFINDEX` of the kernel's `include/net/flow.h`).
pub const LOOPBACK: u32 = 1;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

/// No fact: a bit of [`CallerRecord::missing`] that the first of our connect programs sets for the last, and the last clears. It is
/// seen elsewhere only where somebody's program between the two has aimed elsewhere.
pub const AHEAD: u32 = 1 << 31;

/// Bits of [`CallerRecord::missing`]: facts that the kernel could not read. Such a field is zero and is no evidence.
pub mod missing {
    /// `start_boottime`.
    pub const START: u32 = 1;
    /// `exe_inode`, `exe_dev` (also: a kernel thread has none).
    pub const EXE: u32 = 1 << 1;
    /// `parent_tgid`.
    pub const PARENT: u32 = 1 << 2;
    /// `effective_uid`, `effective_gid`.
    pub const EFFECTIVE_IDS: u32 = 1 << 3;
    /// `socket_cgroup_id`.
    pub const SOCKET_CGROUP: u32 = 1 << 4;
    /// `comm`.
    pub const COMM: u32 = 1 << 5;
    /// `mark`.
    pub const MARK: u32 = 1 << 6;
    /// `owner_uid`, `owner_gid` (also: a subflow of MPTCP has none).
    pub const OWNER: u32 = 1 << 7;
    /// What the socket reaches by itself: its packets pass a cgroup filter that those of the proxy don't.
    pub const REACH: u32 = 1 << 8;
}

/// Who called `connect()`, as the kernel saw it in the calling process' context.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerRecord {
    /// Cookie of the socket that was connected.
    pub socket_cookie: u64,
    /// Cookie of that socket's network namespace (not of the caller's, which may have moved).
    pub netns_cookie: u64,
    /// cgroup v2 id of the caller at `connect()`.
    pub cgroup_id: u64,
    /// cgroup v2 id of the socket: where it was created. Differs from `cgroup_id` after a move or an fd handed on.
    pub socket_cgroup_id: u64,
    /// Start of the process (group leader) in nanoseconds of `CLOCK_BOOTTIME`; `/proc/PID/stat` shows it in ticks.
    pub start_boottime: u64,
    /// Number of the process in pidfs, never given twice since boot: the inode of its pidfd. 0 where the kernel has none
    /// (before 6.9).
    pub process_inode: u64,
    /// Inode number of the executable.
    pub exe_inode: u64,
    /// Address as dialled, network order, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Name of the process (the group leader's, so that an io_uring worker's name does not show).
    pub comm: [u8; 16],
    /// Device of the executable in the kernel's form: `major << 20 | minor`.
    pub exe_dev: u32,
    /// Process id (thread group) in the initial pid namespace.
    pub tgid: u32,
    /// Thread group of the real parent at `connect()`.
    pub parent_tgid: u32,
    /// Real user id, in the initial user namespace.
    pub uid: u32,
    /// Real group id, in the initial user namespace.
    pub gid: u32,
    /// Effective user id.
    pub effective_uid: u32,
    /// Effective group id.
    pub effective_gid: u32,
    /// [`Endpoint::id`] of the endpoint that was dialled.
    pub endpoint_id: u32,
    /// Which facts could not be read: bits of [`missing`].
    pub missing: u32,
    /// Index of the device that the socket was bound to when it was connected, 0 for none.
    pub device: u32,
    /// `SO_MARK` of the socket.
    pub mark: u32,
    /// User that opened the socket, as the kernel's filters and rules see it; not always the caller.
    pub owner_uid: u32,
    /// Group that opened the socket.
    pub owner_gid: u32,
    /// Port as dialled, host order.
    pub port: u16,
    /// Family of the caller's socket: [`AF_INET`] or [`AF_INET6`] (also for a v4-mapped address).
    pub family: u16,
}

impl CallerRecord {
    /// All zeroes: no caller has tgid 0.
    pub const ZERO: Self = Self {
        socket_cookie: 0,
        netns_cookie: 0,
        cgroup_id: 0,
        socket_cgroup_id: 0,
        start_boottime: 0,
        process_inode: 0,
        exe_inode: 0,
        address: [0; 16],
        comm: [0; 16],
        exe_dev: 0,
        tgid: 0,
        parent_tgid: 0,
        uid: 0,
        gid: 0,
        effective_uid: 0,
        effective_gid: 0,
        endpoint_id: 0,
        missing: 0,
        device: 0,
        mark: 0,
        owner_uid: 0,
        owner_gid: 0,
        port: 0,
        family: 0,
    };

    /// Whether all of `facts` (bits of [`missing`]) were read.
    #[must_use]
    pub const fn has(&self, facts: u32) -> bool {
        self.missing & facts == 0
    }
}

/// A connection during its handshake: the connecting socket's own address within its network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeKey {
    /// Network namespace cookie.
    pub netns_cookie: u64,
    /// Local address of the connecting socket, network order, IPv4 mapped.
    pub address: [u8; 16],
    /// Its local port, host order.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// What is known of a handshake.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Who began it.
    pub record: CallerRecord,
    /// When its caller closed it, in nanoseconds of `CLOCK_MONOTONIC`; 0 while it hasn't.
    pub closed: u64,
    /// The sequence number that the accepting side expects next, once `established`.
    pub sequence: u32,
    /// 1 once it is established on the connecting side; before, it can't be on the other.
    pub established: u32,
}

/// A guarded (address, port).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// Network order, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Host order.
    pub port: u32,
}

/// What happens to a connection to a guarded (address, port).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A [`Mode`] as `u32`; anything else is treated as [`Mode::Enforce`].
    pub mode: u32,
    /// Names the endpoint in records and upstream marks; never 0.
    pub id: u32,
    /// In audit: 1 where policy has denies that are enforced. What a caller does to its own socket must not get it past those.
    pub denies: u32,
}

/// What happens to traffic to an enforced endpoint's address that isn't for the endpoint's own port. Ordered: a later one
/// is stricter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OtherTraffic {
    /// Untouched, except for what could hide a port: fragments and IPv6 extension headers.
    Pass = 1,
    /// Other ports of TCP, UDP and UDP-Lite untouched, and ICMP's errors; all other protocols refused.
    Ports = 2,
    /// DNS, NTP, DHCP and ICMP's errors untouched; all else refused.
    Refuse = 3,
}

/// Which bits the tables don't use: see [`prefilter_bit`]. A set bit proves that there is no such key. In this sense, because the
/// loader writes zeroes over a section at each start, also over a pinned one that programs in force read: nothing is passed
/// over then, and the tables tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefilter {
    /// Of [`map::ENDPOINTS`], by address and port.
    pub endpoints: u64,
    /// Of [`map::ADDRESSES`], by address, with port 0.
    pub addresses: u64,
    /// Not 0: nothing is steered, for all endpoints are in observe. Then our ports are anybody's.
    pub idle: u64,
}

/// Where the embedded issuer listens; port 0: nowhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its address and port.
    pub at: EndpointKey,
    /// Zero.
    pub reserved: u32,
    /// Cookie of the network namespace that it is in: the same address elsewhere is somebody else's.
    pub netns_cookie: u64,
}

/// 64 bits that nobody can guess, new at each start. A packet that has them comes from a socket with the upstream mark, for
/// only our program, which sees the socket, sets them; what leaves by the uplink has them removed again. All zero: not used.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// `skb->mark`
    pub mark: u32,
    /// `skb->priority`
    pub priority: u32,
}

/// How strictly an endpoint is guarded.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Not touched; an event says who connected.
    Observe = 1,
    /// Steered while a marked listener is there, else not touched.
    Audit = 2,
    /// Steered, or refused.
    Enforce = 3,
}

/// Per-CPU counters. The numbers are the index in [`map::COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Connections steered to the listener.
    Steered = 0,
    /// Handshakes begun by a steered socket.
    HandshakeBegun = 1,
    /// Records handed to an accepted socket.
    HandedOver = 2,
    /// Accepted on the proxy port without a handshake that is this one: direct connections.
    NoHandshake = 3,
    /// Handshake entries removed because the connection never got established.
    HandshakeAbandoned = 4,
    /// Handshake table full: the entry went into the overflow, from which the oldest unfinished handshake falls out. A
    /// connection whose entry is lost is accepted without a record, thus refused.
    HandshakeTableFull = 5,
    /// No socket storage for the connecting socket: refused.
    NoStorage = 6,
    /// No socket storage for the accepted socket: accepted without a record, thus refused.
    NoChildStorage = 7,
    /// Enforced, and nothing listened on the proxy port in the socket's namespace: refused.
    NoListener = 8,
    /// Enforced, and what listened there was not marked: refused.
    ForeignListener = 9,
    /// Not TCP: refused.
    NotTcp = 10,
    /// Let through because the socket carries the upstream mark of this endpoint.
    UpstreamExempt = 11,
    /// Let through: endpoint in observe.
    Observed = 12,
    /// Let through: endpoint in audit and no marked listener, or not TCP.
    AuditPassed = 13,
    /// An observe event was lost because the ring was full.
    EventLost = 14,
    /// A note about a namespace without a listener was lost because the ring was full: the next scan finds it.
    ArrivalLost = 15,
    /// A datagram to an enforced endpoint: refused.
    DatagramRefused = 16,
    /// Somebody else's bind to a port of ours: refused.
    BindRefused = 17,
    /// A packet that no hook of the socket layer had seen, to an enforced endpoint or address: dropped on its way out of
    /// its socket.
    PacketDropped = 18,
    /// The same on its way out of an uplink.
    FrameDropped = 19,
    /// A raw, packet or XDP socket in the host's network namespace: refused.
    RawSocketRefused = 20,
    /// Let through: endpoint in audit, and packets of the caller pass a cgroup filter that those of the proxy don't.
    Filtered = 21,
    /// The socket is bound to a device and its owner may not bind it to another: let through in audit, else refused.
    BoundToDevice = 22,
    /// A socket that we have bound to the loopback was to be connected elsewhere: refused.
    Rebound = 23,
    /// Many connections wait to be accepted, and this caller has begun its share of them: refused.
    Crowded = 24,
    /// A marked listener was there, and no guard has said for a while that it lives: let through in audit, else refused.
    Away = 25,
    /// Let through: no guard has run since boot, and the caller's unit is one that may pass until then.
    Early = 26,
    /// Let through: somebody with root's power has let the caller pass for a while.
    Bypassed = 27,
    /// Let through: no guard lives, and the caller is a configured executable in its unit.
    Lifeline = 28,
    /// Somebody dialled our listener itself: refused.
    Direct = 29,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 30;
    /// All, in order of index.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Steered,
        Self::HandshakeBegun,
        Self::HandedOver,
        Self::NoHandshake,
        Self::HandshakeAbandoned,
        Self::HandshakeTableFull,
        Self::NoStorage,
        Self::NoChildStorage,
        Self::NoListener,
        Self::ForeignListener,
        Self::NotTcp,
        Self::UpstreamExempt,
        Self::Observed,
        Self::AuditPassed,
        Self::EventLost,
        Self::ArrivalLost,
        Self::DatagramRefused,
        Self::BindRefused,
        Self::PacketDropped,
        Self::FrameDropped,
        Self::RawSocketRefused,
        Self::Filtered,
        Self::BoundToDevice,
        Self::Rebound,
        Self::Crowded,
        Self::Away,
        Self::Early,
        Self::Bypassed,
        Self::Lifeline,
        Self::Direct,
    ];
}

/// A connection that was not steered and is worth a note (mode observe or audit; in enforce only where it is not policy's no).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObserveEvent {
    /// Who.
    pub record: CallerRecord,
    /// IP protocol number of the socket (6 TCP, 17 UDP, …).
    pub protocol: u32,
    /// The endpoint's [`Mode`] as `u32`.
    pub mode: u32,
    /// The [`Counter`] that says why, as `u32`.
    pub why: u32,
    /// Zero.
    pub reserved: u32,
}

/// Whose connections are counted together while many wait to be accepted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// cgroup v2 id of the caller; 0: of whichever.
    pub cgroup: u64,
    /// Real user id.
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What somebody has had of the listener's queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Since when, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Connections begun.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
}

/// A network namespace without a listener of the guard was seen: by the first socket made in it, or by a connect.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Cookie of the socket's namespace.
    pub netns_cookie: u64,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Process that did it, in the guard's pid namespace.
    pub tgid: u32,
    /// Its thread: threads of one process may work in different namespaces.
    pub tid: u32,
    /// A [`Cause`] as `u32`.
    pub cause: u32,
    /// Zero.
    pub reserved: u32,
}

/// What showed a network namespace.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A socket was made in it.
    Socket = 1,
    /// A connect to a guarded address found no listener of the guard in it.
    NoListener = 2,
}

/// Byte offsets of the kernel struct members that the programs read; user space finds them in the kernel's BTF.
/// Zero is a legal offset (`task_struct.thread_info`), so all must be set together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u32,
    /// `task_struct.real_parent`
    pub task_real_parent: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.cred`
    pub task_cred: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `cred.euid`
    pub cred_euid: u32,
    /// `cred.egid`
    pub cred_egid: u32,
    /// `mm_struct.exe_file`
    pub mm_exe_file: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// `sock.sk_cgrp_data.cgroup`
    pub sock_cgroup: u32,
    /// `sock.sk_ack_backlog`
    pub sock_backlog: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kernfs_id: u32,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u32,
    /// `pid.ino`, or [`ABSENT`] before 6.9.
    pub pid_ino: u32,
    /// `pid.level`
    pub pid_level: u32,
    /// `pid.numbers`: one [`Upid`] per level of namespaces, the outermost first.
    pub pid_numbers: u32,
    /// `pid_namespace.ns.inum`
    pub pid_namespace_inum: u32,
    /// `task_struct.nsproxy`
    pub task_nsproxy: u32,
    /// `nsproxy.net_ns`
    pub nsproxy_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `sock.sk_mark`
    pub sock_mark: u32,
    /// `sock.sk_socket`
    pub sock_socket: u32,
    /// `socket.file`
    pub socket_file: u32,
    /// `file.f_cred`
    pub file_cred: u32,
    /// `cred.fsuid`
    pub cred_fsuid: u32,
    /// `cred.fsgid`
    pub cred_fsgid: u32,
    /// `cgroup.bpf.effective`: a pointer per `enum cgroup_bpf_attach_type`.
    pub cgroup_effective: u32,
    /// `bpf_prog_array.items`, whose first member is the program, and
    pub array_items: u32,
    /// their size.
    pub item_size: u32,
    /// `bpf_prog.aux`
    pub prog_aux: u32,
    /// `bpf_prog_aux.id`
    pub aux_id: u32,
}

/// An offset of [`Offsets`] that the running kernel doesn't have.
pub const ABSENT: u32 = u32::MAX;

/// The kernel's `struct upid`; the loader checks the running kernel's against it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upid {
    /// The number in that namespace.
    pub number: i32,
    /// Zero.
    pub padding: u32,
    /// Address of the namespace.
    pub namespace: u64,
}

/// IPv4 address as `::ffff:a.b.c.d`.
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The first three words of a NAT64 address (RFC 6052, 64:ff9b::/96), in memory order: the fourth is the IPv4 address that it
/// leads to.
pub const NAT64: [u32; 3] = [0x0064_ff9b_u32.to_be(), 0, 0];

/// The bit (0 to 63) of an endpoint in the prefilter mask: whether the table can have such a key at all, so that other
/// destinations cost a few instructions and no look-up. `words` is the address as four words in memory order.
#[inline(always)]
#[must_use]
pub const fn prefilter_bit(words: [u32; 4], port: u32) -> u32 {
    let mixed = words[0] ^ words[1] ^ words[2] ^ words[3] ^ (port << 7);
    // Fibonacci hashing: the top six bits of the product.
    mixed.wrapping_mul(0x9E37_79B1) >> 26
}

impl EndpointKey {
    /// The four words of the address in memory order, as the kernel's context has them.
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        let a = &self.address;
        [
            u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
            u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
            u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
            u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
        ]
    }

    /// This key's bit as a mask.
    #[must_use]
    pub const fn prefilter_mask(&self) -> u64 {
        1 << prefilter_bit(self.words(), self.port)
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: each is `repr(C)`, `Copy`, has no padding (assertions below) and no invalid bit pattern.
    unsafe impl aya::Pod for super::CallerRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::HandshakeKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Handshake {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::EndpointKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ObserveEvent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Arrival {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Prefilter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Issuer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Passage {}
}

// No padding, and offsets that a pinned map of this ABI_VERSION has for good.
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<CallerRecord>() == 7 * 8 + 2 * 16 + 13 * 4 + 2 * 2);
    assert!(offset_of!(CallerRecord, address) == 56);
    assert!(offset_of!(CallerRecord, comm) == 72);
    assert!(offset_of!(CallerRecord, exe_dev) == 88);
    assert!(offset_of!(CallerRecord, endpoint_id) == 116);
    assert!(offset_of!(CallerRecord, family) == 142);
    assert!(size_of::<HandshakeKey>() == 32 && align_of::<HandshakeKey>() == 8);
    assert!(size_of::<Handshake>() == size_of::<CallerRecord>() + 16);
    assert!(size_of::<EndpointKey>() == 20 && align_of::<EndpointKey>() == 4);
    assert!(size_of::<Endpoint>() == 12);
    assert!(size_of::<ObserveEvent>() == size_of::<CallerRecord>() + 16);
    assert!(size_of::<Arrival>() == 32);
    assert!(size_of::<Offsets>() == 37 * 4);
    assert!(size_of::<Holder>() == 16 && size_of::<Share>() == 16);
    assert!(size_of::<Prefilter>() == 24 && size_of::<Passage>() == 8);
    assert!(size_of::<Issuer>() == 32);
    assert!(size_of::<Upid>() == 16 && offset_of!(Upid, namespace) == 8);
};

#[cfg(test)]
mod tests;
