//! A world under interception, and the lines that a test exchanges with the process that holds it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout},
};

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{Workload, World, binary};

/// The listeners' port in every test.
pub(crate) const PORT: u16 = 8779;
/// Azure's and AWS's addresses, enforced.
pub(crate) const ENFORCE: &str = "169.254.169.254,80,enforce,7;fd00:ec2::254,80,enforce,9";
pub(crate) const IMDS: &str = "169.254.169.254:80";

/// The world. Dropped: processes, pins (with the bpffs) and namespaces go.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) world: World,
}

impl Guarded {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let world = World::new(name)?;
        world.enter(|| {
            for (name, value) in [
                // Room for many connections, away from the listener's port.
                ("net/ipv4/ip_local_port_range", "10000 65535"),
                ("net/ipv4/tcp_tw_reuse", "1"),
                ("net/ipv4/ping_group_range", "0 2147483647"),
            ] {
                std::fs::write(format!("/proc/sys/{name}"), value).context(name)?;
            }
            Ok(())
        })?;
        Ok(Self { world })
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.world.directory().join("bpf/pins")
    }

    /// Starts the process that holds interception, and waits until it says that it is in force.
    pub(crate) fn start(&self, endpoints: &str) -> Result<Holder> {
        let mut holder = self.spawn(endpoints)?;
        let line = holder.line()?;
        ensure!(line.starts_with("ready "), "{line}");
        holder.greeting = line;
        Ok(holder)
    }

    /// Starts it, whatever it says.
    pub(crate) fn spawn(&self, endpoints: &str) -> Result<Holder> {
        self.spawn_in("agent.service", endpoints)
    }

    pub(crate) fn spawn_in(&self, cgroup: &str, endpoints: &str) -> Result<Holder> {
        let program = self.world.show(&binary("interceptor")?, "interceptor")?;
        let root = self.world.cgroup().display().to_string();
        let pins = self.pins().display().to_string();
        let mut process = self
            .world
            .workload("agent")
            .uid(0)
            .gid(0)
            .in_cgroup(cgroup)
            .spawn(&program, &[&root, &pins, &PORT.to_string(), endpoints])?;
        let to = process.stdin.take().context("no pipe")?;
        let from = BufReader::new(process.stdout.take().context("no pipe")?);
        Ok(Holder {
            process,
            to,
            from,
            greeting: String::new(),
        })
    }

    /// Runs the caller as `who`; what it prints.
    pub(crate) fn call(&self, who: &Workload<'_>, arguments: &[&str]) -> Result<String> {
        let program = self.world.show(&binary("caller")?, "caller")?;
        let output = who.run(&program, arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(
            output.status.success(),
            "{arguments:?}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// The caller as somebody whose uid and gid differ.
    pub(crate) fn call_as_web(&self, arguments: &[&str]) -> Result<String> {
        self.call(&self.world.workload("web").uid(1001).gid(2002), arguments)
    }
}

/// The process that holds interception; killed with SIGKILL when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Its first line.
    pub(crate) greeting: String,
}

impl Holder {
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.is_empty() {
            let mut errors = String::new();
            if let Some(mut pipe) = self.process.stderr.take() {
                std::io::Read::read_to_string(&mut pipe, &mut errors)?;
            }
            anyhow::bail!("the interceptor has ended: {errors}");
        }
        Ok(line.trim().to_owned())
    }

    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.to, "{command}")?;
        self.to.flush()?;
        self.line()
    }

    /// `name=value` out of the answer to `command`.
    pub(crate) fn number(&mut self, command: &str, name: &str) -> Result<u64> {
        let answer = self.ask(command)?;
        answer
            .split(' ')
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("no {name} in {answer}"))?
            .parse()
            .with_context(|| answer.clone())
    }

    /// The tally once `expected` connections have been seen, or what there is after ten seconds.
    pub(crate) fn settled(&mut self, expected: u64) -> Result<String> {
        let tries = imds_guard_tests::patience(std::time::Duration::from_secs(1000)).as_secs();
        for _ in 0..tries {
            if self.number("tally", "accepted")? >= expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.ask("tally")
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
