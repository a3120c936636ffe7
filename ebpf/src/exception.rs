//! Who passes although an endpoint is guarded: for a while, because somebody with root's power said so, or while no guard lives.
//! Part of the layouts that [`ABI_VERSION`](super::ABI_VERSION) numbers.

/// In [`Scope::uid`]: whichever user.
pub const ANY_USER: u32 = u32::MAX;

/// Whose connections pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// cgroup v2 id of the caller; 0: whichever. An id is never given twice: a unit that starts anew has another.
    pub cgroup: u64,
    /// Real user id, or [`ANY_USER`].
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
}

/// Let pass, until when, and what is to be told of it. The programs read the time alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// Nanoseconds of `CLOCK_BOOTTIME`: it ends by itself, whoever runs.
    pub until_ns: u64,
    /// When it began, Unix seconds.
    pub began: i64,
    /// When it ends, Unix seconds, by the clock of the moment when it began: for people.
    pub ends: i64,
    /// The same for all scopes of one bypass.
    pub id: u32,
    /// Who said so: the user that logged in, or [`ANY_USER`] where nobody did.
    pub by: u32,
    /// The workload, or what else was named; UTF-8, zeroes behind it.
    pub name: [u8; 64],
    /// Why; the same.
    pub reason: [u8; 192],
}

/// An executable in a unit that may reach one endpoint while no guard lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lifeline {
    /// cgroup v2 id of the unit.
    pub cgroup: u64,
    /// Inode number of the executable.
    pub exe_inode: u64,
    /// Its device, as in [`CallerRecord::exe_dev`](super::CallerRecord::exe_dev).
    pub exe_dev: u32,
    /// [`Endpoint::id`](super::Endpoint::id).
    pub endpoint_id: u32,
}

/// By what a socket was let through, and to where: its packets pass as long as that holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The bypass, if it was one.
    pub scope: Scope,
    /// [`Endpoint::id`](super::Endpoint::id).
    pub endpoint_id: u32,
    /// 1: a lifeline, and no bypass.
    pub lifeline: u32,
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: each is `repr(C)`, `Copy`, has no padding (assertions below) and no invalid bit pattern.
    unsafe impl aya::Pod for super::Scope {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Bypass {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Lifeline {}
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Scope>() == 16 && size_of::<Pass>() == 24 && size_of::<Lifeline>() == 24);
    assert!(size_of::<Bypass>() == 3 * 8 + 2 * 4 + 64 + 192);
};
