//! A cgroup filter as systemd's `IPAddressAllow=` and `IPAddressDeny=` make them: packets of sockets made in a cgroup, by the
//! other side's address.

use anyhow::{Context, Result};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// 169.254.169.254, as it lies in memory.
const METADATA: i32 = i32::from_ne_bytes([169, 254, 169, 254]);
/// `BPF_FUNC_skb_load_bytes`
const SKB_LOAD: i32 = 26;

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passes {
    /// `IPAddressDeny=169.254.169.254`
    AllBut,
    /// `IPAddressDeny=any`, `IPAddressAllow=169.254.169.254`
    Only,
    /// `IPAccounting=yes`
    Everything,
}

/// In force until dropped.
#[derive(Debug)]
pub(crate) struct Filter(#[expect(dead_code, reason = "closing them detaches")] [OwnedFd; 2]);

impl Filter {
    /// Attaches one in each direction, as systemd does.
    pub(crate) fn on(cgroup: &Path, passes: Passes) -> Result<Self> {
        let cgroup = File::open(cgroup)?;
        // Where in the IPv4 header the other side's address stands; `BPF_CGROUP_INET_INGRESS`, `BPF_CGROUP_INET_EGRESS`.
        let attach = |at: i32, direction: u32| {
            let program = load(passes, at)?;
            let mut link = [0u32; 4];
            link[0] = u32::try_from(program.as_raw_fd())?;
            link[1] = u32::try_from(cgroup.as_raw_fd())?;
            link[2] = direction;
            bpf(LINK_CREATE, &mut link).context("attach a filter")
        };
        Ok(Self([attach(12, 0)?, attach(16, 1)?]))
    }
}

const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;
/// `BPF_PROG_TYPE_CGROUP_SKB`
const CGROUP_SKB: u32 = 8;

/// The beginning of the part of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
}

/// One instruction: operation, registers (destination low), jump offset, immediate.
const fn instruction(operation: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (registers as u64) << 8
        | ((offset.cast_unsigned()) as u64) << 16
        | ((immediate.cast_unsigned()) as u64) << 32
}

fn load(passes: Passes, at: i32) -> Result<OwnedFd> {
    let (metadata, others) = match passes {
        Passes::AllBut => (0, 1),
        Passes::Only => (1, 0),
        Passes::Everything => (1, 1),
    };
    let program = [
        instruction(0xb7, 2, 0, at),       // r2 = at
        instruction(0xbf, 0xa3, 0, 0),     // r3 = r10
        instruction(0x07, 3, 0, -4),       // r3 -= 4
        instruction(0xb7, 4, 0, 4),        // r4 = 4
        instruction(0x85, 0, 0, SKB_LOAD), // bpf_skb_load_bytes(ctx, at, stack, 4)
        instruction(0x55, 0, 4, 0),        // if r0 != 0 goto others
        instruction(0x61, 0xa0, -4, 0),    // r0 = *(u32 *)(r10 - 4)
        instruction(0x56, 0, 2, METADATA), // if w0 != METADATA goto others
        instruction(0xb7, 0, 0, metadata),
        instruction(0x95, 0, 0, 0), // return
        instruction(0xb7, 0, 0, others),
        instruction(0x95, 0, 0, 0), // return
    ];
    let mut attr = Load {
        kind: CGROUP_SKB,
        length: u32::try_from(program.len())?,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(PROG_LOAD, &mut attr).context("load a filter")
}

fn bpf<T>(command: i64, attr: &mut T) -> Result<OwnedFd> {
    // SAFETY: `attr` is a live part of `union bpf_attr` of that size, and what it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?)?;
    // SAFETY: the call above made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
