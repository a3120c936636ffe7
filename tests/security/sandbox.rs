//! The sandbox of the running proxy, seen from outside, and tried from inside: a debugger puts system calls into the live
//! process, which is what an attacker who runs code in it would do.

use anyhow::{Context, Result, bail};
use imds_guard_tests::{AgentProcess, World, require};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

use super::{TOKEN, agent};

fn proxy_of(agent: &AgentProcess) -> Result<Pid> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let [pid] = agent.children()[..] {
            // Started and sandboxed: it says so itself in its status.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            // And asleep in its wait, where a call can be put in.
            if status.contains("Seccomp:\t2") && status.contains("State:\tS") {
                return Ok(Pid::from_raw(i32::try_from(pid)?));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("no proxy; the agent said:\n{}", agent.log())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_proxy_holds_no_capability_and_sees_no_file() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("sandbox")?;
    let agent = agent(&world)?;
    let pid = proxy_of(&agent)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
            .map(str::to_owned)
            .with_context(|| format!("no {name} in {status}"))
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set)?, "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs")?, "1");
    assert_eq!(field("Threads")?, "1");
    assert_eq!(field("Groups")?.trim(), "");
    assert!(!field("Uid")?.split('\t').any(|uid| uid == "0"), "{status}");
    let root = fs::read_dir(format!("/proc/{pid}/root"))?.count();
    assert_eq!(root, 0, "its root directory is empty");
    Ok(())
}

/// Makes the proxy, which waits in a system call, do another one; says how it took it.
#[cfg(target_arch = "x86_64")]
fn inject(pid: Pid, call: i64, arguments: [u64; 3]) -> Result<WaitStatus> {
    ptrace::attach(pid)?;
    waitpid(pid, None)?;
    let mut registers = ptrace::getregs(pid)?;
    // It was stopped behind the `syscall` instruction (two bytes) of its wait: back to it, with another number.
    registers.rip -= 2;
    registers.rax = call.cast_unsigned();
    registers.orig_rax = u64::MAX;
    [registers.rdi, registers.rsi, registers.rdx] = arguments;
    ptrace::setregs(pid, registers)?;
    ptrace::step(pid, None)?;
    let status = waitpid(pid, Some(WaitPidFlag::__WALL))?;
    if matches!(status, WaitStatus::Stopped(..)) {
        let result = ptrace::getregs(pid)?.rax;
        ptrace::kill(pid)?;
        waitpid(pid, None)?;
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGTRAP));
        assert!(result.cast_signed() >= 0, "the call failed: {result:#x}");
    }
    Ok(status)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
#[cfg(target_arch = "x86_64")]
fn a_forbidden_system_call_kills_the_proxy_and_another_one_serves() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("forbidden")?;
    let agent = agent(&world)?;
    let open = libc::AT_FDCWD.cast_unsigned().into();
    for (call, arguments) in [
        (libc::SYS_openat, [open, 0, 0]),
        (libc::SYS_execve, [0, 0, 0]),
        (libc::SYS_ptrace, [0, 0, 0]),
        (libc::SYS_clone, [0, 0, 0]),
        (
            libc::SYS_socket,
            [libc::AF_NETLINK.cast_unsigned().into(), 3, 0],
        ),
        // BPF_MAP_DELETE_ELEM, BPF_PROG_LOAD: only look-up and update of elements are left.
        (libc::SYS_bpf, [3, 0, 0]),
        (libc::SYS_bpf, [5, 0, 0]),
        // What would let it overwrite the audit file: another offset, and no more O_APPEND.
        (
            libc::SYS_lseek,
            [1, 0, libc::SEEK_SET.cast_unsigned().into()],
        ),
        (
            libc::SYS_fcntl,
            [1, libc::F_SETFL.cast_unsigned().into(), 0],
        ),
        (
            libc::SYS_mprotect,
            [0, 4096, libc::PROT_EXEC.cast_unsigned().into()],
        ),
    ] {
        let pid = proxy_of(&agent)?;
        let status = inject(pid, call, arguments)?;
        assert_eq!(
            status,
            WaitStatus::Signaled(pid, Signal::SIGSYS, false),
            "system call {call} {arguments:?}"
        );
    }
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
#[cfg(target_arch = "x86_64")]
fn a_listed_system_call_put_in_the_same_way_does_not_kill_it() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("listed")?;
    let agent = agent(&world)?;
    let pid = proxy_of(&agent)?;
    let status = inject(pid, libc::SYS_getpid, [0, 0, 0])?;
    assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGTRAP));
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_killed_proxy_leaks_nothing_and_another_one_serves_those_who_waited() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("killed")?;
    let agent = agent(&world)?;
    for _ in 0..3 {
        let pid = proxy_of(&agent)?;
        nix::sys::signal::kill(pid, Signal::SIGKILL)?;
        let answer = world.workload("billing").get(TOKEN)?;
        assert_eq!(answer.status, 200, "queued meanwhile, then served");
        let other = world.workload("other").uid(1001).get(TOKEN)?;
        assert_eq!(other.status, 403);
        while agent.children().contains(&pid.as_raw().cast_unsigned()) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}
