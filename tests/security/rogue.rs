//! What a taken-over proxy gets from the guard: for a caller that is connected now, what policy grants it; nothing else.

use anyhow::{Context as _, Result, ensure};
use imds_guard::sys::{pidfd::PidFd, scm};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, Caller, World, binary, require};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use super::POLICY;

const VAULT: &str = "https://vault.azure.net";
const NOBODY: u32 = 65534;

/// The program at the seam. Dropped, it is killed.
struct Rogue {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Rogue {
    fn start(world: &World, agent: &AgentProcess) -> Result<Self> {
        let program = world.show(&binary("rogue")?, "rogue")?;
        let seam = agent.run_directory().join("seam.sock");
        let mut process = world
            .workload("proxy")
            .uid(NOBODY)
            .gid(NOBODY)
            .spawn(&program, &[&seam.display().to_string()])?;
        let to = process.stdin.take().context("no pipe")?;
        let from = BufReader::new(process.stdout.take().context("no pipe")?);
        let mut rogue = Self { process, to, from };
        let line = rogue.line()?;
        ensure!(line == "ready", "{line}");
        Ok(rogue)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.to, "{command}")?;
        self.line()
    }

    fn sign(&mut self, resource: &str, with: &str) -> Result<String> {
        self.ask(&format!("sign {resource} {with}"))
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A guard that waits for a proxy, and the one that knocks.
fn taken_over(world: &World) -> Result<(AgentProcess, Rogue)> {
    taken_over_by(world, POLICY)
}

fn taken_over_by(world: &World, policy: &str) -> Result<(AgentProcess, Rogue)> {
    let agent = world
        .agent()
        .config(policy)
        .argument("--proxy=socket")
        .start()?;
    let rogue = Rogue::start(world, &agent)?;
    Ok((agent, rogue))
}

fn connected(world: &World, rogue: &mut Rogue, uid: u32) -> Result<Caller> {
    let caller = world.workload("billing").uid(uid).connect(AZURE_IMDS)?;
    assert_eq!(rogue.ask("accept")?, "accepted");
    Ok(caller)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_signature_needs_the_accepted_socket_of_a_caller_and_a_grant() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("rogue")?;
    let (agent, mut rogue) = taken_over(&world)?;
    let caller = connected(&world, &mut rogue, 1000)?;
    let pid = caller.pid();
    assert_eq!(rogue.ask("attest caller")?, format!("attested {pid}"));
    assert_eq!(rogue.ask("recheck caller")?, "unchanged");
    assert_eq!(rogue.sign(VAULT, "caller")?, format!("signed {VAULT}"));
    for with in ["none", "seam", "listener", "two"] {
        assert_eq!(rogue.sign(VAULT, with)?, "refused Unattributed", "{with}");
    }
    // What policy does not grant this caller, and a caller to whom it grants nothing: the rogue itself, another uid.
    let denied = |answer: String| answer.starts_with("refused Denied");
    assert!(denied(
        rogue.sign("https://management.azure.com", "caller")?
    ));
    let _other = connected(&world, &mut rogue, 1001)?;
    assert!(denied(rogue.sign(VAULT, "caller")?));
    assert_eq!(rogue.sign(VAULT, "own")?, "refused Unattributed");
    let signed = fs::read_to_string(world.directory().join("audit.jsonl"))?;
    assert_eq!(signed.matches("\"signed\"").count(), 1, "{signed}");
    drop(agent);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_socket_in_a_callers_place_needs_the_caller_and_an_audited_endpoint() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    for (mode, answer) in [
        ("audit", "a socket"),
        ("enforce", "refused Denied(NotServed)"),
    ] {
        let world = World::new("dial")?;
        let policy = format!("[endpoints]\nazure-imds = \"{mode}\"\n{POLICY}");
        let (_agent, mut rogue) = taken_over_by(&world, &policy)?;
        let _caller = connected(&world, &mut rogue, 1000)?;
        assert_eq!(rogue.ask("dial caller")?, answer);
        for with in ["none", "seam", "listener", "two"] {
            let refused = rogue.ask(&format!("dial {with}"))?;
            assert_eq!(refused, "refused Unattributed", "{mode} {with}");
        }
        assert_eq!(rogue.ask("hang-up")?, "hung up");
        assert_eq!(rogue.ask("dial caller")?, "refused Unattributed");
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nothing_is_signed_for_a_caller_that_has_left() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("left")?;
    let (_agent, mut rogue) = taken_over(&world)?;
    let caller = connected(&world, &mut rogue, 1000)?;
    assert_eq!(rogue.sign(VAULT, "caller")?, format!("signed {VAULT}"));
    let elsewhere = world.cgroup_below("elsewhere.service")?;
    fs::write(elsewhere.join("cgroup.procs"), caller.pid().to_string())?;
    assert_eq!(rogue.sign(VAULT, "caller")?, "refused CallerChanged");
    drop(caller);
    assert_eq!(rogue.sign(VAULT, "caller")?, "refused CallerGone");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_socket_that_was_a_callers_once_gets_no_signature() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("once")?;
    let (_agent, mut rogue) = taken_over(&world)?;
    // The process lives on: only its connection has ended, and the proxy has kept the socket.
    let mut caller = silent(&world)?;
    assert_eq!(rogue.ask("accept")?, "accepted");
    assert_eq!(rogue.sign(VAULT, "caller")?, format!("signed {VAULT}"));
    assert_eq!(rogue.ask("hang-up")?, "hung up");
    assert_eq!(rogue.sign(VAULT, "caller")?, "refused Unattributed");
    caller.kill()?;
    caller.wait()?;
    Ok(())
}

/// A caller that connects and does nothing more.
fn silent(world: &World) -> Result<Child> {
    let connect = "import socket, time
s = socket.create_connection((\"169.254.169.254\", 80))
time.sleep(600)";
    let python = Path::new("/usr/bin/python3");
    world.workload("billing").spawn(python, &["-c", connect])
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_close_that_waits_does_not_stop_the_guard() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("linger")?;
    let (agent, mut rogue) = taken_over(&world)?;
    // A caller that reads nothing: what is sent to it is never taken.
    let mut deaf = silent(&world)?;
    assert_eq!(rogue.ask("accept")?, "accepted");
    let asked = Instant::now();
    assert!(rogue.ask("linger")?.starts_with("attested"));
    let _next = connected(&world, &mut rogue, 1000)?;
    assert_eq!(rogue.sign(VAULT, "caller")?, format!("signed {VAULT}"));
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    deaf.kill()?;
    deaf.wait()?;
    drop(agent);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nonsense_ends_the_seam_and_the_next_proxy_is_served() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("nonsense")?;
    let (agent, mut rogue) = taken_over(&world)?;
    assert!(rogue.ask("nonsense")?.contains("ended the seam"));
    let mut next = Rogue::start(&world, &agent)?;
    let _caller = connected(&world, &mut next, 1000)?;
    assert_eq!(next.sign(VAULT, "caller")?, format!("signed {VAULT}"));
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_proxy_that_neither_reads_nor_ends_is_ended_and_replaced() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("stopped")?;
    let agent = super::agent(&world)?;
    let billing = world.workload("billing");
    assert_eq!(billing.get(super::TOKEN)?.status, 200);
    let stopped = agent.children();
    let [proxy] = stopped[..] else {
        anyhow::bail!("one proxy, not {stopped:?}")
    };
    let id = nix::unistd::Pid::from_raw(i32::try_from(proxy)?);
    nix::sys::signal::kill(id, Signal::SIGSTOP)?;
    scm::send(seam_of(proxy)?.as_fd(), b"nonsense", &[])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while agent.children() == stopped && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(agent.children(), stopped, "{}", agent.log());
    assert_eq!(billing.get(super::TOKEN)?.status, 200);
    Ok(())
}

/// The proxy's own end of the seam.
fn seam_of(proxy: u32) -> Result<OwnedFd> {
    let arguments = fs::read_to_string(format!("/proc/{proxy}/cmdline"))?;
    let number: i32 = arguments
        .split('\0')
        .find_map(|argument| argument.strip_prefix("--seam-fd="))
        .context("no --seam-fd")?
        .parse()?;
    let pidfd = PidFd::open(proxy)?;
    // SAFETY: three integers; no memory is touched.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = i32::try_from(nix::errno::Errno::result(fd)?)?;
    // SAFETY: the call above made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
