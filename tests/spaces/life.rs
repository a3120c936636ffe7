//! Namespaces come and go, and so do the agent's processes.

use anyhow::{Context as _, Result};
use imds_guard_tests::{AZURE_IMDS, Workload, World, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::{PORT, get, request, soon, started};

/// As /proc shows it: listening (0A) on 127.0.0.1 and the agent's port.
fn is_listener(line: &str) -> bool {
    line.contains(&format!(" 0100007F:{PORT:04X} 00000000:0000 0A "))
}

/// Whether some process listens on the agent's port in the namespace of `pid`.
fn listens(pid: u32) -> Result<bool> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    Ok(table
        .lines()
        .any(|l| l.contains(" 0100007F:224B 00000000:0000 0A ")))
}

/// Somebody who lives where `who` does, and makes no socket.
fn sleeper(who: &Workload<'_>) -> Result<Child> {
    let process = who.spawn(Path::new("/bin/sleep"), &["60"])?;
    // Before, it is still on its way to its namespace.
    soon("sleep", || {
        Ok(std::fs::read_to_string(format!("/proc/{}/comm", process.id()))?.trim() == "sleep")
    })?;
    Ok(process)
}

fn end(mut process: Child) -> Result<()> {
    process.kill()?;
    process.wait()?;
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn namespaces_that_are_there_at_the_start_have_listeners_when_the_agent_is_ready() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("before")?;
    let billing = world.workload("billing").in_own_netns();
    let lives = sleeper(&billing)?;
    let named = || {
        let add = std::process::Command::new("ip")
            .args(["netns", "add", "tw-named"])
            .status()?;
        anyhow::ensure!(add.success());
        Ok(())
    };
    world.enter(named)?;
    let _agent = started(&world)?;
    assert!(listens(lives.id())?, "no process of it has made a socket");
    let in_named = || {
        let exec = ["netns", "exec", "tw-named", "cat", "/proc/net/tcp"];
        Ok(std::process::Command::new("ip").args(exec).output()?.stdout)
    };
    let table = String::from_utf8(world.enter(in_named)?)?;
    assert!(table.lines().any(is_listener), "{table}");
    end(lives)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_namespace_dies_with_its_last_process() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("dies")?;
    let agent = started(&world)?;
    assert_eq!(get(&world.workload("billing"))?.status, 200);
    let agents = [agent.pid(), agent.children()[0]];
    let held = || -> Result<Vec<usize>> { agents.iter().map(|pid| sockets(*pid)).collect() };
    let mut before = held()?;
    // The connection of that answer is closed in its own time.
    soon("rest", || {
        std::thread::sleep(Duration::from_millis(300));
        let last = std::mem::replace(&mut before, held()?);
        Ok(last == before)
    })?;
    let lives = sleeper(&world.workload("billing").in_own_netns())?;
    soon("a listener, by the scan", || listens(lives.id()))?;
    let more = [before[0] + 2, before[1] + 2];
    soon("both listeners in both processes", || Ok(held()? == more))?;
    // The namespace itself tells when it is gone.
    let watched = Watched::new(&world, lives.id())?;
    end(lives)?;
    soon("the end of the namespace", || watched.is_gone())?;
    assert_eq!(held()?, before);
    // The twin: while somebody is there, it stays; also somebody who has never made a socket.
    let stays = sleeper(&world.workload("billing").in_own_netns())?;
    soon("a listener", || listens(stays.id()))?;
    std::thread::sleep(Duration::from_secs(7));
    assert!(listens(stays.id())?);
    end(stays)
}

/// Descriptors of a process that are sockets.
fn sockets(pid: u32) -> Result<usize> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let is_socket = |path: PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    Ok(fds.flatten().filter(|fd| is_socket(fd.path())).count())
}

/// A veth pair whose far end is in the namespace: it goes with it.
struct Watched<'w>(&'w World);

impl<'w> Watched<'w> {
    fn new(world: &'w World, pid: u32) -> Result<Self> {
        world.enter(|| {
            let pid = pid.to_string();
            let add = [
                "link", "add", "tw-watch", "type", "veth", "peer", "name", "tw-far", "netns", &pid,
            ];
            let added = std::process::Command::new("ip").args(add).status()?;
            anyhow::ensure!(added.success(), "ip link add");
            Ok(())
        })?;
        Ok(Self(world))
    }

    fn is_gone(&self) -> Result<bool> {
        self.0.enter(|| {
            let show = std::process::Command::new("ip")
                .args(["link", "show", "tw-watch"])
                .stderr(Stdio::null())
                .output()?;
            Ok(!show.status.success())
        })
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn guard_and_proxy_come_back_for_all_namespaces() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("restart")?;
    let agent = started(&world)?;
    let spaces: Vec<_> = (0..5).map(|_| world.unconnected()).collect::<Result<_>>()?;
    let callers: Vec<_> = spaces
        .iter()
        .map(|space| world.workload("billing").in_space(space))
        .collect();
    let lives: Vec<_> = callers.iter().map(sleeper).collect::<Result<_>>()?;
    let all_served = || -> Result<()> {
        for who in &callers {
            assert_eq!(get(who)?.status, 200);
        }
        Ok(())
    };
    all_served()?;
    let proxy = agent.children()[0];
    kill(Pid::from_raw(i32::try_from(proxy)?), Signal::SIGKILL)?;
    soon("another proxy", || {
        Ok(agent.children().first().is_some_and(|p| *p != proxy))
    })?;
    all_served()?;
    // Killed, not ended: whoever calls meanwhile is refused, and served again afterwards.
    agent.signal(Signal::SIGKILL)?;
    soon("the end of the proxy", || {
        Ok(!Path::new(&format!("/proc/{proxy}")).exists())
    })?;
    soon("refusals", || {
        let refused = callers[0].connect(AZURE_IMDS);
        Ok(refused.is_err_and(|e| format!("{e:#}").contains("refused")))
    })?;
    drop(agent);
    let _again = started(&world)?;
    for who in &callers {
        let mut caller = who
            .connect(AZURE_IMDS)
            .context("at once: it was there at the start")?;
        caller.send(request().as_bytes())?;
        assert_eq!(caller.response()?.status, 200);
    }
    lives.into_iter().try_for_each(end)
}

/// Namespaces whose one process ends with its first socket: the guard has been told, and finds nobody there.
const DYING: &str = r#"
import ctypes, os, socket
libc = ctypes.CDLL(None)
for _ in range(100):
    if os.fork() == 0:
        libc.unshare(0x40000000)
        socket.socket()
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_namespace_that_dies_while_its_listener_is_set_up_is_nobodys_trouble() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("dying")?;
    let agent = started(&world)?;
    // The guard has others for moments: nft.
    let proxy = agent.children()[0];
    let python = Path::new("/usr/bin/python3");
    let root = world.workload("dying").uid(0).gid(0);
    let output = root.run(python, &["-c", DYING])?;
    assert!(output.status.success(), "{output:?}");
    let next = get(&world.workload("billing").in_own_netns())?;
    assert_eq!(next.status, 200, "the next one is served");
    assert_eq!(get(&world.workload("billing"))?.status, 200);
    assert_eq!(agent.children()[0], proxy, "nobody had to be replaced");
    assert!(!agent.log().contains("ERROR"), "{}", agent.log());
    Ok(())
}
