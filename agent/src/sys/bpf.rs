//! bpf(2) where aya has no way: link update, read-only descriptors, and map elements by bare descriptors.
//!
//! The element functions need nothing but `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`, the two commands that the
//! proxy's seccomp filter leaves it: it must not go through aya, which asks the kernel about a map first.

pub(crate) mod query;

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use imds_guard_ebpf::{Arrival, CallerRecord, ObserveEvent};
use tokio::io::unix::AsyncFd;

/// `enum bpf_cmd`, include/uapi/linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapLookupElem = 1,
    MapUpdateElem = 2,
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// `BPF_F_RDONLY`: the descriptor allows look-up alone.
const RDONLY: u32 = 1 << 3;

/// The part of `union bpf_attr` for map elements.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part for `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part for `BPF_LINK_CREATE` of a link that has a place among others.
#[repr(C)]
struct OrderedLinkCreate {
    prog_fd: u32,
    /// An interface's number, or a cgroup's descriptor.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// The part for `BPF_LINK_CREATE` of a link to a cgroup.
#[repr(C)]
struct CgroupLinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE`: with nothing to be before, the first of all.
const BEFORE: u32 = 1 << 3;

/// The part for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The part for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Info {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Beginning of `struct bpf_link_info` for a cgroup link.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    pad2: u32,
}

fn bpf<T>(command: Command, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a live, initialised part of `union bpf_attr` of the size given; the pointers in it are set by
    // the functions below to live buffers of the sizes that the kernel expects for the command.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i64,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(
    clippy::cast_sign_loss,
    reason = "a borrowed descriptor is not negative"
)]
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>() as u64
}

/// The attribution record of `socket` (connecting or accepted) from the socket-storage map `records`.
///
/// `Ok(None)`: the kernel recorded no caller for it. Refuse such a connection.
///
/// # Errors
/// The errno of bpf(2): `EBADF` or `EINVAL` if either descriptor is not what it should be, `EPERM` under a filter.
pub fn lookup_record(
    records: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
) -> io::Result<Option<CallerRecord>> {
    let key: i32 = socket.as_raw_fd();
    let mut value = MaybeUninit::<CallerRecord>::uninit();
    let mut attr = Element {
        map_fd: number(records),
        pad: 0,
        key: address(&key),
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(Command::MapLookupElem, &mut attr) {
        // SAFETY: the kernel filled the whole value: its size is the map's, which both sides take from one struct.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Marks `socket`, before its connect, as the proxy's own upstream to the endpoint `endpoint_id`, in the socket-storage
/// map `upstream`.
///
/// # Errors
/// As [`lookup_record`]; `ENOMEM` if the socket has no room.
pub fn mark_upstream(
    upstream: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    endpoint_id: u32,
) -> io::Result<()> {
    update_u32(upstream, socket, endpoint_id)
}

/// Sets the `u32` that a socket-storage map has for `socket`.
///
/// # Errors
/// As [`mark_upstream`].
pub(crate) fn update_u32(
    map: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    value: u32,
) -> io::Result<()> {
    let key: i32 = socket.as_raw_fd();
    let mut attr = Element {
        map_fd: number(map),
        pad: 0,
        key: address(&key),
        value: address(&value),
        flags: 0,
    };
    bpf(Command::MapUpdateElem, &mut attr).map(drop)
}

/// The `u32` that a socket-storage map has for `socket`; `None`: nothing.
///
/// # Errors
/// As [`lookup_record`].
pub(crate) fn lookup_u32(map: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let key: i32 = socket.as_raw_fd();
    let mut value = 0u32;
    let mut attr = Element {
        map_fd: number(map),
        pad: 0,
        key: address(&key),
        value: std::ptr::from_mut(&mut value) as u64,
        flags: 0,
    };
    match bpf(Command::MapLookupElem, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Tries to overwrite the attribution record of `socket`: what a taken-over proxy would try. With the read-only
/// descriptor that the proxy gets it fails with `EPERM`; a test holds us to that.
///
/// # Errors
/// The errno of bpf(2).
pub fn overwrite_record(
    records: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    record: &CallerRecord,
) -> io::Result<()> {
    let key: i32 = socket.as_raw_fd();
    let mut attr = Element {
        map_fd: number(records),
        pad: 0,
        key: address(&key),
        value: address(record),
        flags: 0,
    };
    bpf(Command::MapUpdateElem, &mut attr).map(drop)
}

/// Opens a pinned object.
///
/// # Errors
/// `ENOENT` if there is none, `EPERM` without the right.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    open_pinned_with(path, 0)
}

/// Opens a pinned map for look-up only.
///
/// # Errors
/// As [`open_pinned`].
pub(crate) fn open_pinned_readonly(path: &Path) -> io::Result<OwnedFd> {
    open_pinned_with(path, RDONLY)
}

fn open_pinned_with(path: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags,
    };
    let fd = bpf(Command::ObjGet, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of the one behind `link`, without a moment between.
///
/// # Errors
/// `ENOLINK` if the link's cgroup is gone.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: number(link),
        new_prog_fd: number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Attaches `program` to what the interface with number `index` sends, before all other programs there.
///
/// # Errors
/// `EINVAL` before Linux 6.6, `ENODEV`.
pub(crate) fn attach_tcx(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    let mut attr = OrderedLinkCreate {
        prog_fd: number(program),
        target: index,
        attach_type: TCX_EGRESS,
        flags: BEFORE,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    let fd = bpf(Command::LinkCreate, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches `program` to a cgroup, behind all that are there: it runs after them. `attach_type`: `enum bpf_attach_type`.
///
/// # Errors
/// `EPERM` where somebody's program allows no other.
pub(crate) fn attach_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = CgroupLinkCreate {
        prog_fd: number(program),
        target_fd: number(cgroup),
        attach_type,
        flags: 0,
    };
    let fd = bpf(Command::LinkCreate, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same before all that are there.
///
/// # Errors
/// `EINVAL` before Linux 6.17, `EPERM` where somebody's program allows no other.
pub(crate) fn attach_cgroup_first(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = OrderedLinkCreate {
        prog_fd: number(program),
        target: number(cgroup),
        attach_type,
        flags: BEFORE,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    let fd = bpf(Command::LinkCreate, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches the link that is pinned at `path`, as `bpftool link detach` does: what somebody with root's power may do to us. The
/// guard never does; tests hold it to noticing.
///
/// # Errors
/// `EOPNOTSUPP` for a kind of link that can't be detached.
pub fn detach_link(path: &Path) -> io::Result<()> {
    let link = open_pinned(path)?;
    let mut attr = number(link.as_fd());
    bpf(Command::LinkDetach, &mut attr).map(drop)
}

/// Pins an object.
///
/// # Errors
/// `EEXIST`, `EPERM`.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: number(object),
        file_flags: 0,
    };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

/// The number of the interface that a tcx link is on; 0 if that is gone.
///
/// # Errors
/// The errno of bpf(2).
pub(crate) fn link_interface(link: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_link_info` has it where it has a cgroup's id for others, and the attach type in the upper half.
    let place = link_info(link)?.cgroup_id.to_ne_bytes();
    let [a, b, c, d, ..] = place;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Where a cgroup link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkPlace {
    /// Id of the program behind it.
    pub(crate) program_id: u32,
    /// Id of the cgroup; 0 if that is gone.
    pub(crate) cgroup_id: u64,
}

/// What a cgroup link joins.
///
/// # Errors
/// The errno of bpf(2).
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkPlace> {
    let mut info = CgroupLinkInfo::default();
    let mut attr = Info {
        bpf_fd: number(link),
        info_len: u32::try_from(size_of::<CgroupLinkInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(Command::ObjGetInfoByFd, &mut attr)?;
    Ok(LinkPlace {
        program_id: info.prog_id,
        cgroup_id: info.cgroup_id,
    })
}

/// Which way a packet goes past a cgroup's filters: the first two of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Direction {
    Ingress = 0,
    Egress = 1,
}

/// An event out of the ring buffer's bytes; `None` if they are too few.
pub(crate) fn event_from(bytes: &[u8]) -> Option<ObserveEvent> {
    if bytes.len() < size_of::<ObserveEvent>() {
        return None;
    }
    // SAFETY: long enough; plain integers, every bit pattern is valid; read unaligned.
    Some(unsafe { bytes.as_ptr().cast::<ObserveEvent>().read_unaligned() })
}

/// The same of a note about a network namespace.
pub(crate) fn arrival_from(bytes: &[u8]) -> Option<Arrival> {
    if bytes.len() < size_of::<Arrival>() {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { bytes.as_ptr().cast::<Arrival>().read_unaligned() })
}

/// A ring buffer's descriptor, to be polled.
pub(crate) fn ring_fd(ring: &RingBuf<MapData>) -> BorrowedFd<'_> {
    // SAFETY: the ring owns its descriptor, and closes it only when it is dropped, which the borrow forbids.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

/// Registers a ring buffer with the runtime's poller.
///
/// # Errors
/// Without a runtime that has IO enabled.
pub(crate) fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, never changes it, and closes it only when it is dropped by the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(ring) }?)
}
