//! Pins a process and proves that it is the recorded one: descriptor first, then the comparison, so that a pid which is
//! reused meanwhile can't pass. Never returns facts of another process than the record's.
//!
//! From 6.9 a pidfd's inode names the process for good, and the record has it. Before, the start time must do, which `/proc`
//! tells in ticks of 10 ms: a successor that gets the same pid within the tick in which its predecessor started, as the same
//! user in the same cgroup, passes for it where the predecessor was never attested.

use imds_guard_ebpf::{CallerRecord, missing};
use nix::errno::Errno;

use super::AttestError;
use super::cgroup::Cgroups;
use crate::sys::pidfd::PidFd;
use crate::sys::proc::{Proc, ProcessDir};

/// `USER_HZ`: what `/proc` counts start times in, on every architecture that we build for.
const TICKS_PER_SECOND: u64 = 100;
const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

/// Opens the process of this record.
///
/// # Errors
/// Where it is gone, is another, or has changed since it connected.
pub fn pin(
    proc: &Proc,
    record: &CallerRecord,
    cgroups: &mut Cgroups,
) -> Result<(PidFd, ProcessDir), AttestError> {
    if !record.has(missing::START) {
        return Err(AttestError::Incomplete("the start time of the process"));
    }
    let tgid = record.tgid;
    let (pidfd, dir) = open(proc, tgid)?;
    let stat = read(&dir, tgid, "stat")?;
    if is_of_the_kernel(&stat) {
        return Err(AttestError::Kernel(tgid));
    }
    let same_start = start_ticks(&stat)? == record.start_boottime / NANOS_PER_TICK;
    if !same_start || !same_inode(record, &pidfd)? {
        return Err(AttestError::Recycled(tgid));
    }
    unchanged(record, &pidfd, &dir, cgroups)?;
    Ok((pidfd, dir))
}

/// Whether the kernel's own number of the process is the recorded one; true where it numbers none.
fn same_inode(record: &CallerRecord, pidfd: &PidFd) -> Result<bool, AttestError> {
    let unreadable = |errno| AttestError::Unreadable(record.tgid, "pidfd", errno);
    match record.process_inode {
        0 => Ok(true),
        recorded => Ok(pidfd.inode().map_err(unreadable)? == recorded),
    }
}

fn open(proc: &Proc, tgid: u32) -> Result<(PidFd, ProcessDir), AttestError> {
    let gone = |what| {
        move |errno| match errno {
            Errno::ESRCH | Errno::ENOENT => AttestError::Gone(tgid),
            // pidfd_open wants the group leader; a tid that is none can't be what connected.
            Errno::EINVAL => AttestError::Recycled(tgid),
            _ => AttestError::Unreadable(tgid, what, errno),
        }
    };
    let pidfd = PidFd::open(tgid).map_err(gone("pidfd_open"))?;
    let dir = proc.process(tgid).map_err(gone("open /proc"))?;
    // Alive after the directory was opened: both name the same process, for its pid was never free between.
    if pidfd.exited().unwrap_or(true) {
        return Err(AttestError::Gone(tgid));
    }
    Ok((pidfd, dir))
}

/// Compares user and cgroup of a pinned process with its record.
///
/// # Errors
/// [`AttestError::Changed`] with what has changed.
pub fn unchanged(
    record: &CallerRecord,
    pidfd: &PidFd,
    dir: &ProcessDir,
    cgroups: &mut Cgroups,
) -> Result<(), AttestError> {
    let tgid = record.tgid;
    let now = Now::of(pidfd, dir, cgroups, record)?;
    let effective = record.has(missing::EFFECTIVE_IDS);
    let uid = now.uid == record.uid && (!effective || now.euid == record.effective_uid);
    let gid = now.gid == record.gid && (!effective || now.egid == record.effective_gid);
    if !uid {
        return Err(AttestError::Changed(tgid, "user"));
    }
    if !gid {
        return Err(AttestError::Changed(tgid, "group"));
    }
    if !now.same_cgroup {
        return Err(AttestError::Changed(tgid, "cgroup"));
    }
    if pidfd.exited().unwrap_or(true) {
        return Err(AttestError::Gone(tgid));
    }
    Ok(())
}

/// Ids of a process now.
struct Now {
    uid: u32,
    euid: u32,
    gid: u32,
    egid: u32,
    same_cgroup: bool,
}

impl Now {
    fn of(
        pidfd: &PidFd,
        dir: &ProcessDir,
        cgroups: &mut Cgroups,
        record: &CallerRecord,
    ) -> Result<Self, AttestError> {
        match pidfd.info() {
            Ok(info) => Ok(Self {
                uid: info.ruid,
                euid: info.euid,
                gid: info.rgid,
                egid: info.egid,
                same_cgroup: info.cgroup_id == record.cgroup_id,
            }),
            Err(Errno::ESRCH) => Err(AttestError::Gone(record.tgid)),
            // Before 6.13.
            Err(_) => Self::from_proc(dir, cgroups, record),
        }
    }

    fn from_proc(
        dir: &ProcessDir,
        cgroups: &mut Cgroups,
        record: &CallerRecord,
    ) -> Result<Self, AttestError> {
        let tgid = record.tgid;
        let status = read(dir, tgid, "status")?;
        let uids = ids(&status, "Uid:").ok_or(AttestError::Incomplete("user ids"))?;
        let gids = ids(&status, "Gid:").ok_or(AttestError::Incomplete("group ids"))?;
        let cgroup = read(dir, tgid, "cgroup")?;
        let recorded = cgroups.path(record.cgroup_id);
        Ok(Self {
            uid: uids.0,
            euid: uids.1,
            gid: gids.0,
            egid: gids.1,
            same_cgroup: recorded.is_ok_and(|path| unified(&cgroup) == Some(&*path)),
        })
    }
}

fn read(dir: &ProcessDir, tgid: u32, name: &'static str) -> Result<String, AttestError> {
    match dir.read(name) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(Errno::ESRCH | Errno::ENOENT) => Err(AttestError::Gone(tgid)),
        Err(errno) => Err(AttestError::Unreadable(tgid, name, errno)),
    }
}

/// Start time in ticks: field 22 of `stat`, counted behind the name, which may itself hold spaces and parentheses.
fn start_ticks(stat: &str) -> Result<u64, AttestError> {
    stat_field(stat, 22).ok_or(AttestError::Incomplete("start time in /proc/PID/stat"))
}

/// Whether it is a thread of the kernel's own (`PF_KTHREAD` of include/linux/sched.h). Somebody has it connect, and it isn't known
/// who: with MPTCP, a peer that announces an address makes one dial it. It has root's ids, which that somebody must not get.
fn is_of_the_kernel(stat: &str) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    stat_field(stat, 9).is_none_or(|flags| flags & PF_KTHREAD != 0)
}

fn stat_field(stat: &str, field: usize) -> Option<u64> {
    let behind_name = &stat[stat.rfind(')')? + 1..];
    behind_name
        .split_ascii_whitespace()
        .nth(field - 3)?
        .parse()
        .ok()
}

/// Real and effective id of a line `Uid:` or `Gid:` of `status`.
fn ids(status: &str, name: &str) -> Option<(u32, u32)> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The unified hierarchy's line of `/proc/PID/cgroup`.
fn unified(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The facts of a live process in the form of a record.
///
/// # Errors
/// Where it is not there or can't be read.
pub fn record_of(
    proc: &Proc,
    pid: u32,
    cgroups: &mut Cgroups,
    host_netns: Option<u64>,
) -> Result<CallerRecord, AttestError> {
    let (pidfd, dir) = open(proc, pid)?;
    let status = read(&dir, pid, "status")?;
    let stat = read(&dir, pid, "stat")?;
    let (uid, effective_uid) = ids(&status, "Uid:").ok_or(AttestError::Incomplete("user ids"))?;
    let (gid, effective_gid) = ids(&status, "Gid:").ok_or(AttestError::Incomplete("group ids"))?;
    let cgroup = read(&dir, pid, "cgroup")?;
    let cgroup_id = match pidfd.info() {
        Ok(info) => info.cgroup_id,
        Err(_) => unified(&cgroup)
            .and_then(|path| cgroups.id_of(path))
            .unwrap_or(0),
    };
    let exe = dir.stat_link("exe").ok();
    let mut record = CallerRecord {
        tgid: pid,
        start_boottime: stat_field(&stat, 22).unwrap_or(0) * NANOS_PER_TICK,
        parent_tgid: stat_field(&stat, 4)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        uid,
        effective_uid,
        gid,
        effective_gid,
        cgroup_id,
        socket_cgroup_id: cgroup_id,
        netns_cookie: netns_cookie(&dir, host_netns),
        ..CallerRecord::ZERO
    };
    match exe {
        Some(stat) => {
            record.exe_inode = stat.st_ino;
            record.exe_dev = super::executable::kernel_dev(stat.st_dev);
        }
        None => record.missing |= missing::EXE,
    }
    Ok(record)
}

/// The host's cookie where the process lives in our network namespace, else 0, which is nobody's.
fn netns_cookie(dir: &ProcessDir, host_netns: Option<u64>) -> u64 {
    let ours = std::fs::metadata("/proc/self/ns/net")
        .map(|m| std::os::unix::fs::MetadataExt::ino(&m))
        .ok();
    let theirs = dir.stat_link("ns/net").map(|stat| stat.st_ino).ok();
    match host_netns {
        Some(cookie) if ours.is_some() && ours == theirs => cookie,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(stat_field(stat, 22), Some(4242));
        assert_eq!(stat_field(stat, 4), Some(1));
        assert_eq!(stat_field("7 (a", 22), None);
    }

    #[test]
    fn a_thread_of_the_kernels_own_is_nobodys_process() {
        let kthreadd = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 4 0 0 20 0 1 0 31 0 0";
        assert!(is_of_the_kernel(kthreadd));
        assert!(is_of_the_kernel("2 (cut"), "unknown is no permission");
        let ours = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(!is_of_the_kernel(&ours), "{ours}");
    }

    #[test]
    fn ids_are_real_then_effective() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t7\t8\t8\t8\n";
        assert_eq!(ids(status, "Uid:"), Some((1000, 0)));
        assert_eq!(ids(status, "Gid:"), Some((7, 8)));
        assert_eq!(unified("1:cpu:/a\n0::/b\n"), Some("/b"));
    }
}
