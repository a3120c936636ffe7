//! What this process can't do any more once it serves: no capability, no new privileges, no file, no program, and only the
//! system calls below. Entered once, after all descriptors are there and before the first byte of a stranger is read.
//! There is no way back, and a call that is not listed kills the process.

use std::collections::BTreeMap;
use std::convert::TryInto;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule,
};

use crate::sys::privilege;

/// Why the sandbox could not be closed. The process must end: it may hold power.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A privilege that could not be given up.
    #[error(transparent)]
    Privilege(#[from] privilege::DropError),
    /// A capability set could not be read.
    #[error("can't read our own capabilities: {0}")]
    Unreadable(#[source] caps::errors::CapsError),
    /// A capability is left.
    #[error("the proxy still holds {0:?} capabilities: start it with none")]
    Capable(caps::CapSet),
    /// The filter does not compile for this architecture.
    #[error("can't build the system call filter: {0}")]
    Build(#[from] BackendError),
    /// The kernel does not take it.
    #[error("can't install the system call filter: {0}")]
    Install(#[from] seccompiler::Error),
}

/// Closes the sandbox around the calling process, which must have one thread.
///
/// # Errors
/// The first step that failed.
pub(crate) fn enter() -> Result<(), SandboxError> {
    privilege::seal()?;
    // The bounding set needs a capability to clear: who started us did that, or it bounds nothing that we can gain,
    // for no_new_privs keeps execve from giving anything, and the filter forbids execve.
    for set in [
        caps::CapSet::Permitted,
        caps::CapSet::Effective,
        caps::CapSet::Inheritable,
        caps::CapSet::Ambient,
    ] {
        let held = caps::read(None, set).map_err(SandboxError::Unreadable)?;
        if !held.is_empty() {
            return Err(SandboxError::Capable(set));
        }
    }
    seccompiler::apply_filter_all_threads(&filter(SeccompAction::KillProcess)?)?;
    Ok(())
}

fn filter(otherwise: SeccompAction) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<Rule>> = FREE.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(narrow()?);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)?.try_into()
}

/// Calls whose arguments don't matter: they act on descriptors that we hold already, or on nothing but ourselves.
const FREE: &[i64] = &[
    // Bytes in, bytes out.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_fstat,
    // Sockets that exist.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Waiting.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    // Memory, never executable: see `narrow`.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Signals that we get, and the end.
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`.
const BPF_COMMANDS: [u64; 2] = [1, 2];
/// `_IOWR(0xFF, 11, 72 bytes)` of `include/uapi/linux/pidfd.h`; [`crate::sys::pidfd`] has the struct.
const PIDFD_GET_INFO: u64 = 0xC048_FF0B;
/// How std makes a socket non-blocking.
const FIONBIO: u64 = 0x5421;

/// Calls that are allowed with some arguments only.
fn narrow() -> Result<Vec<(i64, Vec<Rule>)>, BackendError> {
    let families = [libc::AF_INET, libc::AF_INET6]
        .map(i64::from)
        .map(i64::cast_unsigned);
    let fcntls = [
        libc::F_GETFL,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_DUPFD_CLOEXEC,
    ]
    .map(i64::from)
    .map(i64::cast_unsigned);
    let execute = i64::from(libc::PROT_EXEC).cast_unsigned();
    let ours = u64::from(std::process::id());
    Ok(vec![
        (libc::SYS_bpf, among(0, &BPF_COMMANDS)?),
        (libc::SYS_ioctl, among(1, &[PIDFD_GET_INFO, FIONBIO])?),
        (libc::SYS_socket, among(0, &families)?),
        // No F_SETFL and no way to another offset: the audit file is open for appending, and stays so. What has been
        // written, the guard's records of signatures among it, can't be overwritten.
        (libc::SYS_fcntl, among(1, &fcntls)?),
        // std asks where a file stands before it reads it to its end.
        (
            libc::SYS_lseek,
            vec![Rule::new(vec![
                Condition::new(1, Len::Qword, Op::Eq, 0)?,
                Condition::new(2, Len::Dword, Op::Eq, SEEK_CUR)?,
            ])?],
        ),
        (libc::SYS_mmap, vec![when(2, Op::MaskedEq(execute), 0)?]),
        (libc::SYS_mprotect, vec![when(2, Op::MaskedEq(execute), 0)?]),
        // abort(3) after a panic: to ourselves.
        (libc::SYS_tgkill, vec![when(0, Op::Eq, ours)?]),
        // `File::metadata` of a descriptor: no path.
        (
            libc::SYS_statx,
            vec![when(2, Op::MaskedEq(EMPTY_PATH), EMPTY_PATH)?],
        ),
    ])
}

/// `whence` of lseek(2).
const SEEK_CUR: u64 = 1;
const EMPTY_PATH: u64 = 0x1000;

fn among(argument: u8, values: &[u64]) -> Result<Vec<Rule>, BackendError> {
    values
        .iter()
        .map(|value| when(argument, Op::Eq, *value))
        .collect()
}

fn when(argument: u8, op: Op, value: u64) -> Result<Rule, BackendError> {
    Rule::new(vec![Condition::new(argument, Len::Dword, op, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_is_short_enough_for_the_kernel() {
        let program = filter(SeccompAction::KillProcess).unwrap();
        assert!(program.len() < 4096, "{}", program.len());
    }

    #[test]
    fn no_call_stands_in_both_lists() {
        for (call, _) in narrow().unwrap() {
            assert!(!FREE.contains(&call), "{call} would be free after all");
        }
    }

    #[test]
    fn calls_that_reach_out_are_in_no_list() {
        for call in [
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_clone3,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_process_vm_readv,
            libc::SYS_pidfd_getfd,
            libc::SYS_io_uring_setup,
            libc::SYS_bind,
            libc::SYS_listen,
        ] {
            assert!(!FREE.contains(&call));
            assert!(narrow().unwrap().iter().all(|(narrow, _)| *narrow != call));
        }
    }
}
