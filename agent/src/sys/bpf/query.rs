//! Questions to bpf(2) that change nothing: where a link is attached, which programs run at a cgroup.

use std::io;
use std::mem::size_of;
use std::os::fd::BorrowedFd;

use super::{Command, Info, address, bpf, number};

/// `BPF_F_QUERY_EFFECTIVE`: with those that ancestors contribute, in the order in which they run.
const EFFECTIVE: u32 = 1;

/// More than the kernel lets anybody attach at one cgroup (`BPF_CGROUP_MAX_PROGS` is 64), and its ancestors'.
const MOST: usize = 1024;

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`, as far as kernels before 6.6 know it.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// `enum bpf_link_type`: at a cgroup.
const LINK_CGROUP: u32 = 3;
/// `enum bpf_link_type`: at an interface, by tcx.
const LINK_TCX: u32 = 11;

/// Beginning of `struct bpf_link_info`: what all kinds have, and the first words of what each has of its own.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    own: [u32; 4],
}

/// Where a link is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkAt {
    /// A cgroup (id 0: gone).
    Cgroup {
        /// Its id.
        id: u64,
        /// `enum bpf_attach_type`.
        attach_type: u32,
    },
    /// An interface (0: gone).
    Interface(u32),
    /// Something else, by `enum bpf_link_type`.
    Other(u32),
}

/// The program behind a link, and where the link is attached.
///
/// # Errors
/// The errno of bpf(2).
pub(crate) fn link(link: BorrowedFd<'_>) -> io::Result<(u32, LinkAt)> {
    let mut info = LinkInfo::default();
    let mut attr = Info {
        bpf_fd: number(link),
        info_len: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(Command::ObjGetInfoByFd, &mut attr)?;
    let [low, high, attach_type, _] = info.own;
    let words = [low.to_ne_bytes(), high.to_ne_bytes()];
    let mut id = [0; 8];
    id.copy_from_slice(words.as_flattened());
    let at = match info.kind {
        LINK_CGROUP => LinkAt::Cgroup {
            id: u64::from_ne_bytes(id),
            attach_type,
        },
        LINK_TCX => LinkAt::Interface(low),
        other => LinkAt::Other(other),
    };
    Ok((info.program, at))
}

/// The kernel's number of a link, or of a map: both have it at the same place of what the kernel tells of them.
///
/// # Errors
/// The errno of bpf(2).
pub(crate) fn id(object: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = LinkInfo::default();
    let mut attr = Info {
        bpf_fd: number(object),
        info_len: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(Command::ObjGetInfoByFd, &mut attr)?;
    Ok(info.id)
}

/// Ids of the programs that run for sockets of `cgroup` at `attach_type`, in order. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The errno of bpf(2): `EINVAL` for an attach type that the kernel doesn't know.
pub(crate) fn effective(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    programs(cgroup, attach_type, EFFECTIVE)
}

/// The same of those that are attached at `cgroup` itself.
///
/// # Errors
/// As [`effective`].
pub(crate) fn attached(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    programs(cgroup, attach_type, 0)
}

fn programs(cgroup: BorrowedFd<'_>, attach_type: u32, query_flags: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MOST];
    let mut attr = Query {
        target_fd: number(cgroup),
        attach_type,
        query_flags,
        attach_flags: 0,
        prog_ids: address(ids.as_mut_slice()),
        prog_cnt: u32::try_from(MOST).unwrap_or(0),
        pad: 0,
    };
    bpf(Command::ProgQuery, &mut attr)?;
    ids.truncate(usize::try_from(attr.prog_cnt).unwrap_or(0));
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_is_no_link_and_no_cgroup_is_an_error() {
        let stdin = io::stdin();
        assert!(link(stdin.as_fd()).is_err());
        assert!(effective(stdin.as_fd(), 10).is_err());
    }
}
