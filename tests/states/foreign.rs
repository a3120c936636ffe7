//! Programs of others at a cgroup, made from instructions: they send what is dialled somewhere else, as a proxy in front of the
//! metadata service does (the Azure guest proxy agent), or a load balancer in the kernel (Cilium).

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

const PROG_LOAD: i64 = 5;
const PROG_ATTACH: i64 = 8;
const PROG_DETACH: i64 = 9;
const LINK_CREATE: i64 = 28;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`
const SOCK_ADDR: u32 = 18;
/// `BPF_FUNC_get_current_uid_gid`
const UID_GID: i32 = 15;
/// Members of `struct bpf_sock_addr`.
const IP4: i16 = 4;
const PORT: i16 = 24;

/// Where it looks (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Connect = 10,
    SendMsg = 14,
    PeerName = 29,
}

/// How it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// By a link.
    Link,
    /// By a link, before all others (`BPF_F_PREORDER`).
    Preorder,
    /// The old way: alone (no flag).
    Alone,
    /// The old way: unless a cgroup below has one (`BPF_F_ALLOW_OVERRIDE`).
    Override,
    /// The old way: beside others (`BPF_F_ALLOW_MULTI`).
    Multi,
}

/// What it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rewrite {
    pub(super) hook: Hook,
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    /// Whose connections it leaves alone.
    pub(super) but: u32,
}

/// A program in force until it is dropped.
#[derive(Debug)]
pub(super) struct Foreign {
    program: OwnedFd,
    cgroup: File,
    hook: Hook,
    /// `None`: attached the old way.
    link: Option<OwnedFd>,
}

impl Foreign {
    pub(super) fn attach(rewrite: Rewrite, cgroup: &Path, how: How) -> Result<Self> {
        let program = load(rewrite)?;
        let cgroup = File::open(cgroup)?;
        let mut foreign = Self {
            program,
            cgroup,
            hook: rewrite.hook,
            link: None,
        };
        match how {
            How::Link => foreign.link = Some(foreign.link(0)?),
            How::Preorder => foreign.link = Some(foreign.link(1 << 6)?),
            How::Alone => foreign.call(PROG_ATTACH, 0)?,
            How::Override => foreign.call(PROG_ATTACH, 1)?,
            How::Multi => foreign.call(PROG_ATTACH, 2)?,
        }
        Ok(foreign)
    }

    fn link(&self, flags: u32) -> Result<OwnedFd> {
        let mut attr = [
            u32::try_from(self.program.as_raw_fd())?,
            u32::try_from(self.cgroup.as_raw_fd())?,
            self.hook as u32,
            flags,
        ];
        descriptor(bpf(LINK_CREATE, &mut attr).context("attach a link")?)
    }

    fn call(&self, command: i64, flags: u32) -> Result<()> {
        let mut attr = [
            u32::try_from(self.cgroup.as_raw_fd())?,
            u32::try_from(self.program.as_raw_fd())?,
            self.hook as u32,
            flags,
        ];
        bpf(command, &mut attr).map(drop).context("attach")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.link.is_none() {
            // One that was never attached is none to detach.
            let _detached = self.call(PROG_DETACH, 0);
        }
    }
}

/// The beginning of the part of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// One instruction: operation, registers (destination low), offset, immediate.
const fn instruction(operation: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    operation as u64
        | (registers as u64) << 8
        | ((offset.cast_unsigned()) as u64) << 16
        | ((immediate.cast_unsigned()) as u64) << 32
}

fn load(rewrite: Rewrite) -> Result<OwnedFd> {
    let ip = |at: SocketAddrV4| i32::from_ne_bytes(at.ip().octets());
    let port = |at: SocketAddrV4| i32::from(at.port().to_be());
    let program = [
        instruction(0xbf, 0x16, 0, 0),                      // r6 = r1
        instruction(0x85, 0, 0, UID_GID),                   // r0 = gid << 32 | uid
        instruction(0x16, 0, 8, rewrite.but.cast_signed()), // if w0 == but goto out
        instruction(0x61, 0x62, IP4, 0),                    // r2 = user_ip4
        instruction(0x56, 2, 6, ip(rewrite.from)),          // if w2 != from goto out
        instruction(0x61, 0x62, PORT, 0),                   // r2 = user_port
        instruction(0x56, 2, 4, port(rewrite.from)),        // if w2 != from goto out
        instruction(0xb4, 2, 0, ip(rewrite.to)),            // w2 = to
        instruction(0x63, 0x26, IP4, 0),                    // user_ip4 = w2
        instruction(0xb4, 2, 0, port(rewrite.to)),          // w2 = to
        instruction(0x63, 0x26, PORT, 0),                   // user_port = w2
        instruction(0xb7, 0, 0, 1),                         // out: r0 = 1
        instruction(0x95, 0, 0, 0),                         // return
    ];
    let mut log = vec![0u8; 1 << 16];
    let mut attr = Load {
        kind: SOCK_ADDR,
        length: u32::try_from(program.len())?,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
        name: *b"stranger\0\0\0\0\0\0\0\0",
        expected_attach_type: rewrite.hook as u32,
        ..Load::default()
    };
    let loaded = bpf(PROG_LOAD, &mut attr);
    descriptor(loaded.with_context(|| String::from_utf8_lossy(&log).trim_matches('\0').to_owned())?)
}

fn bpf<T>(command: i64, attr: &mut T) -> Result<i32> {
    // SAFETY: `attr` is a live part of `union bpf_attr` of that size, and what it points to outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    Ok(i32::try_from(nix::errno::Errno::result(done)?)?)
}

fn descriptor(fd: i32) -> Result<OwnedFd> {
    anyhow::ensure!(fd >= 0, "no descriptor");
    // SAFETY: bpf(2) just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
