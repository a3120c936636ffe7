//! Where programs of a bench run: a cgroup (guarded or not), a user, a CPU, always inside the world's namespaces.
//!
//! Servers get one CPU and the load another, where there are two: a load that fights its server for a CPU measures the
//! scheduler. Must never start anything outside of a world.

use anyhow::{Context, Result, bail};
use imds_guard_tests::World;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The CPUs that the two sides use; one and the same on a machine with one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpus {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

impl Cpus {
    /// The first and the last that this process may use.
    pub(crate) fn allowed() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
        let allowed: Vec<usize> = (0..CpuSet::count())
            .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
            .collect();
        match (allowed.last(), allowed.first()) {
            (Some(&server), Some(&load)) => Ok(Self { server, load }),
            _ => bail!("no CPU to run on"),
        }
    }
}

/// Keep a running process, every thread of it, on one CPU. What it starts later inherits that.
pub(crate) fn pin(pid: u32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(tid), &set).context("sched_setaffinity")?;
    }
    Ok(())
}

/// Who and where a program is.
#[derive(Debug, Clone)]
pub(crate) struct Place<'w> {
    pub(crate) world: &'w World,
    pub(crate) cgroup: PathBuf,
    pub(crate) uid: u32,
    pub(crate) cpu: usize,
}

impl Place<'_> {
    /// Run a program there to its end.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(program, arguments);
        let output = self
            .world
            .enter(move || command.output().context("could not start"))?;
        if !output.status.success() {
            let (out, err) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            bail!("{program} failed ({}): {out}{err}", output.status);
        }
        Ok(output)
    }

    /// Start a server there, and wait until it can be dialled at `address` (of the loopback device).
    pub(crate) fn serve(
        &self,
        program: &Path,
        arguments: &[&str],
        address: &str,
    ) -> Result<Server> {
        let mut command = self.command(&program.to_string_lossy(), arguments);
        command.stdout(Stdio::null());
        let process = self
            .world
            .enter(move || command.spawn().context("could not start"))?;
        let mut server = Server { process };
        let address: SocketAddr = address.parse()?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self
            .world
            .enter(|| Ok(TcpStream::connect(address)?))
            .is_err()
        {
            if let Some(status) = server.process.try_wait()? {
                bail!("{} ended at once ({status})", program.display());
            }
            if Instant::now() > deadline {
                bail!("{} doesn't listen at {address}", program.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let (uid, cpu) = (self.uid.to_string(), self.cpu.to_string());
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(&self.cgroup);
        command.args([
            "taskset", "-c", &cpu, "setpriv", "--reuid", &uid, "--regid", &uid,
        ]);
        command
            .args(["--clear-groups", "--", program])
            .args(arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }
}

/// A server that runs; dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
}

impl Server {
    /// Its pid and those of its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        with_children(self.process.id())
    }
}

/// A process and its children.
pub(crate) fn with_children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let parsed = children.split_whitespace().filter_map(|p| p.parse().ok());
    std::iter::once(pid).chain(parsed).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its workers, too; the cgroup's end catches what is left.
        let term = nix::sys::signal::Signal::SIGTERM;
        let _gone_already = nix::sys::signal::kill(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(i32::MAX)),
            term,
        );
        let _reaped = self.process.wait();
    }
}
