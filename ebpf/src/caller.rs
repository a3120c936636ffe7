//! Who is calling: reads the facts of the current process into a [`CallerRecord`].
//!
//! What reads kernel memory stands in a function that the kernel verifies by itself ([`facts`]): inlined, it would be read
//! anew on each of the paths that lead there, which is where most of a start went.
//!
//! Must never fail a connection: a fact that can't be read is zero and named in `missing`, and user space treats it as
//! unavailable evidence. Nothing here decides.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task,
    bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_probe_read_kernel,
    bpf_skc_to_tcp_sock,
};
use imds_guard_ebpf::{ABSENT, CallerRecord, EndpointKey, Upid, missing};

use crate::{
    globals::{offset, pid_namespace},
    socket,
};

/// What was dialled.
#[derive(Clone, Copy)]
pub(crate) struct Dialled {
    pub(crate) key: EndpointKey,
    pub(crate) family: u16,
    pub(crate) endpoint_id: u32,
}

/// Reads `T` at `base + offset` of kernel memory.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails rather than faults.
    unsafe { bpf_probe_read_kernel((base + offset) as *const T).ok() }
}

/// Fills `record` with the facts of the current process and the connecting socket `sk`.
///
/// # Safety
/// `ctx` is the context of a connect program, `sk` its socket, `record` writable.
#[inline(always)]
pub(crate) unsafe fn record(
    record: &mut CallerRecord,
    ctx: *mut c_void,
    sk: *mut c_void,
    to: &Dialled,
) {
    // SAFETY: helpers with the program's own context.
    unsafe {
        record.socket_cookie = bpf_get_socket_cookie(ctx);
        record.netns_cookie = bpf_get_netns_cookie(ctx);
        record.cgroup_id = bpf_get_current_cgroup_id();
    }
    record.address = to.key.address;
    record.port = to.key.port as u16;
    record.family = to.family;
    record.endpoint_id = to.endpoint_id;
    // bpf_get_current_uid_gid(): real ids; the uid is the LOW half, the gid is the HIGH half
    // (kernel/bpf/helpers.c: `(u64) gid << 32 | uid`). The suite tests a caller whose uid and gid differ.
    let uid_gid = bpf_get_current_uid_gid();
    record.uid = uid_gid as u32;
    record.gid = (uid_gid >> 32) as u32;
    // SAFETY: as promised by the caller.
    unsafe {
        record.device = socket::device(sk);
        // The context's own `sk` allows no arithmetic, its typed form does. Only TCP sockets have one.
        let sock = bpf_skc_to_tcp_sock(sk) as u64;
        record.missing = facts(record, &raw const sock);
    }
}

/// All that is read from the kernel's own structures, of the current task and the TCP socket at `*sock` (0: there is none);
/// says what could not be read. A pointer can't go to such a function as a number, but a number's place can.
///
/// # Safety
/// Both point to what they say; the verifier checks it.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn facts(record: *mut CallerRecord, sock: *const u64) -> u32 {
    // SAFETY: as promised; the verifier wants the question, for it takes any pointer for one that may be null.
    let (Some(record), Some(&sock)) = (unsafe { record.as_mut() }, unsafe { sock.as_ref() }) else {
        return u32::MAX;
    };
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    record.tgid = match pid_namespace() {
        0 => (bpf_get_current_pid_tgid() >> 32) as u32,
        namespace => tgid_in(namespace, task).unwrap_or(0),
    };
    leader(record, task)
        | effective_ids(record, task)
        | executable(record, task)
        | of_socket(record, sock)
}

/// How deep below the first one the guard's pid namespace may be: a container in a container, and one more.
const LEVELS: u64 = 4;

/// The number of a task's process as the guard knows it. A process number means something in one namespace only: in
/// another it is nobody's, or somebody else's.
#[inline(always)]
fn tgid_of(task: u64) -> Option<u32> {
    match pid_namespace() {
        0 => read(task, offset!(task_tgid)),
        namespace => tgid_in(namespace, task),
    }
}

/// The number of a task's process in the pid namespace with that inode; none where the process is outside of it.
#[inline(always)]
pub(crate) fn tgid_in(namespace: u32, task: u64) -> Option<u32> {
    tid_in(namespace, read(task, offset!(task_group_leader))?)
}

/// The same of the task itself.
#[inline(always)]
pub(crate) fn tid_in(namespace: u32, task: u64) -> Option<u32> {
    let pid = read::<u64>(task, offset!(task_thread_pid))?;
    let deepest = u64::from(read::<u32>(pid, offset!(pid_level))?);
    for level in 1..=LEVELS {
        if level > deepest {
            return None;
        }
        let at = offset!(pid_numbers) + level * size_of::<Upid>() as u64;
        let number = read::<Upid>(pid, at)?;
        if read::<u32>(number.namespace, offset!(pid_namespace_inum))? == namespace {
            return Some(number.number as u32);
        }
    }
    None
}

/// Start time, name and parent: of the group leader, so that a worker thread of the kernel's io_uring doesn't show.
#[inline(always)]
fn leader(record: &mut CallerRecord, task: u64) -> u32 {
    record.start_boottime = 0;
    record.process_inode = 0;
    record.comm = [0; 16];
    record.parent_tgid = 0;
    let mut gone = missing::START | missing::COMM | missing::PARENT;
    if let Some(leader) = read::<u64>(task, offset!(task_group_leader)) {
        if let Some(start) = read::<u64>(leader, offset!(task_start_boottime)) {
            record.start_boottime = start;
            gone &= !missing::START;
        }
        record.process_inode = process_inode(leader).unwrap_or(0);
        if let Some(comm) = read::<[u8; 16]>(leader, offset!(task_comm)) {
            record.comm = comm;
            gone &= !missing::COMM;
        }
        if let Some(parent) = read::<u64>(leader, offset!(task_real_parent))
            && let Some(tgid) = tgid_of(parent)
        {
            record.parent_tgid = tgid;
            gone &= !missing::PARENT;
        }
    }
    gone
}

/// The number of a group leader's process in pidfs, which is never given twice.
#[inline(always)]
fn process_inode(leader: u64) -> Option<u64> {
    if offset!(pid_ino) == u64::from(ABSENT) {
        return None;
    }
    let pid = read::<u64>(leader, offset!(task_thread_pid))?;
    read(pid, offset!(pid_ino))
}

/// Effective ids from the subjective credentials (`cred`, not `real_cred`): those the connect is judged by.
#[inline(always)]
fn effective_ids(record: &mut CallerRecord, task: u64) -> u32 {
    record.effective_uid = 0;
    record.effective_gid = 0;
    if let Some(cred) = read::<u64>(task, offset!(task_cred))
        && let Some(uid) = read::<u32>(cred, offset!(cred_euid))
        && let Some(gid) = read::<u32>(cred, offset!(cred_egid))
    {
        record.effective_uid = uid;
        record.effective_gid = gid;
        return 0;
    }
    missing::EFFECTIVE_IDS
}

/// Inode and device of the running image.
#[inline(always)]
fn executable(record: &mut CallerRecord, task: u64) -> u32 {
    let found = image(task);
    (record.exe_inode, record.exe_dev) = found.unwrap_or((0, 0));
    match found {
        Some(_) => 0,
        None => missing::EXE,
    }
}

/// The same of any task; a kernel thread has none.
#[inline(always)]
pub(crate) fn image(task: u64) -> Option<(u64, u32)> {
    let known = |address: &u64| *address != 0;
    let mm = read::<u64>(task, offset!(task_mm)).filter(known)?;
    let file = read::<u64>(mm, offset!(mm_exe_file)).filter(known)?;
    let inode = read::<u64>(file, offset!(file_inode))?;
    let number = read::<u64>(inode, offset!(inode_ino))?;
    let sb = read::<u64>(inode, offset!(inode_sb))?;
    Some((number, read::<u32>(sb, offset!(sb_dev))?))
}

/// What the socket itself tells.
#[inline(always)]
fn of_socket(record: &mut CallerRecord, sock: u64) -> u32 {
    if sock == 0 {
        record.socket_cgroup_id = 0;
        return missing::SOCKET_CGROUP | missing::MARK | missing::OWNER | missing::REACH;
    }
    let mut gone = socket_cgroup(record, sock) | socket::shape(record, sock);
    if socket::has_foreign_filter(sock) {
        gone |= missing::REACH;
    }
    gone
}

/// The cgroup in which the socket was created.
#[inline(always)]
fn socket_cgroup(record: &mut CallerRecord, sock: u64) -> u32 {
    record.socket_cgroup_id = 0;
    if let Some(cgroup) = read::<u64>(sock, offset!(sock_cgroup))
        && let Some(node) = read::<u64>(cgroup, offset!(cgroup_kn))
        && let Some(id) = read::<u64>(node, offset!(kernfs_id))
    {
        record.socket_cgroup_id = id;
        return 0;
    }
    missing::SOCKET_CGROUP
}
