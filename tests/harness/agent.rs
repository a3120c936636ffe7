//! The real agent inside a world: its configuration, its start (ready when it says so by sd_notify), its end.

use crate::scale::{keep_key, patience};
use crate::{AuditTail, World, binary};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// An agent that isn't started yet.
#[derive(Debug)]
pub struct Agent<'w> {
    world: &'w World,
    config: String,
    arguments: Vec<String>,
    log: Option<String>,
    before: Vec<String>,
    in_cgroup: String,
    root: PathBuf,
}

impl<'w> Agent<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            config: String::new(),
            arguments: Vec::new(),
            log: None,
            before: Vec::new(),
            in_cgroup: "agent".to_owned(),
            root: world.cgroup().into(),
        }
    }

    /// With this configuration (the main TOML file, policy in it).
    #[must_use]
    pub fn config(self, config: &str) -> Self {
        Self {
            config: config.to_owned(),
            ..self
        }
    }

    /// With this argument beside those that place it into its world.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Started by this command, which executes what follows it, in the same process.
    #[must_use]
    pub fn started_by(self, command: &[&str]) -> Self {
        let before = command.iter().map(ToString::to_string).collect();
        Self { before, ..self }
    }

    /// In this cgroup below the world's, and not in `agent`.
    #[must_use]
    pub fn in_cgroup(self, path: &str) -> Self {
        Self {
            in_cgroup: path.to_owned(),
            ..self
        }
    }

    /// Guarding this cgroup, below the world's.
    #[must_use]
    pub fn guarding(self, root: PathBuf) -> Self {
        Self { root, ..self }
    }

    /// With this `RUST_LOG`.
    #[must_use]
    pub fn log_level(self, filter: &str) -> Self {
        Self {
            log: Some(filter.to_owned()),
            ..self
        }
    }

    /// Start it, and wait until it says that it is ready (20 s at most).
    ///
    /// # Errors
    /// When it ends before, or doesn't become ready: with all that it said.
    pub fn start(self) -> Result<AgentProcess> {
        let mut agent = self.spawn()?;
        match agent.wait_ready(patience(Duration::from_secs(20))) {
            Ok(()) => Ok(agent),
            Err(error) => Err(error.context(format!("the agent said:\n{}", agent.log()))),
        }
    }

    /// Start it and don't wait: for starts that are to fail.
    ///
    /// # Errors
    /// When there is no binary to start.
    pub fn spawn(self) -> Result<AgentProcess> {
        let directory = self.world.directory();
        let config = directory.join("etc/imds-guard.toml");
        fs::write(&config, &self.config)?;
        let (log, notify) = (directory.join("agent.log"), directory.join("run/notify"));
        if notify.exists() {
            fs::remove_file(&notify)?;
        }
        let ready = UnixDatagram::bind(&notify).context("bind the notification socket")?;
        ready.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut command = self.command()?;
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null());
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdout(out.try_clone()?).stderr(out);
        let process = self
            .world
            .enter(move || command.spawn().context("could not start the agent"))?;
        Ok(AgentProcess {
            process,
            ready: Some(ready),
            log,
            audit: directory.join("audit.jsonl"),
            run: directory.join("run"),
            state: directory.join("state"),
        })
    }

    /// A cgroup below the guarded one.
    fn below(&self, name: &str) -> Result<PathBuf> {
        let cgroup = self.root.join(name);
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        Ok(cgroup)
    }

    fn command(&self) -> Result<Command> {
        let directory = self.world.directory();
        let program = self.world.show(&binary("imds-guard")?, "imds-guard")?;
        let mut command = Command::new("sh");
        // Below the root that it guards, or the kernel never hands a record over on the accepting side.
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(self.below(&self.in_cgroup)?);
        command
            .args(&self.before)
            .arg(program)
            .arg("run")
            .arg("--config")
            .arg(directory.join("etc/imds-guard.toml"));
        command
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("--run-dir")
            .arg(directory.join("run"));
        command
            .arg("--cgroup-root")
            .arg(&self.root)
            .arg("--pin-dir")
            .arg(directory.join("bpf/imds-guard"));
        // The package makes a user for the proxy; a machine under test has none.
        command.args(["--proxy-user", "nobody"]);
        command
            .arg("--audit")
            .arg(directory.join("audit.jsonl"))
            .args(&self.arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("RUST_BACKTRACE", "1")
            .envs(self.log.iter().map(|filter| ("RUST_LOG", filter)));
        Ok(command)
    }
}

/// An agent that runs. Dropped, it is ended (SIGTERM, then SIGKILL).
#[derive(Debug)]
pub struct AgentProcess {
    process: Child,
    /// Until it is ready: a manager that keeps nothing. Descriptors that lie unread in it would live on after the agent.
    ready: Option<UnixDatagram>,
    log: PathBuf,
    audit: PathBuf,
    run: PathBuf,
    state: PathBuf,
}

impl AgentProcess {
    /// The guard's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The pids of those of the guard's children that are its proxy; for moments it has others, nft.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let is_proxy = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(b"proxy")
        };
        fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(is_proxy)
            .collect()
    }

    /// All that guard and proxy wrote to stdout and stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its audit records.
    #[must_use]
    pub fn audit(&self) -> AuditTail {
        AuditTail::new(&self.audit)
    }

    /// Its run directory.
    #[must_use]
    pub fn run_directory(&self) -> &std::path::Path {
        &self.run
    }

    /// Send it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).context("the agent is gone")
    }

    /// How it ended; waits `limit` for that.
    ///
    /// # Errors
    /// When it still runs then.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the agent still runs after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut message = [0; 4096];
        let ready = self.ready.take().context("it was waited for before")?;
        while Instant::now() < deadline {
            if let Ok(length) = ready.recv(&mut message)
                && String::from_utf8_lossy(&message[..length])
                    .lines()
                    .any(|line| line == "READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the agent ended before it was ready ({status})");
            }
        }
        bail!("the agent wasn't ready after {limit:?}")
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _gone_already = self.signal(Signal::SIGTERM);
        if self.wait_end(patience(Duration::from_secs(3))).is_err() {
            let _gone_meanwhile = self.process.kill();
            let _reaped = self.process.wait();
        }
        keep_key(&self.state);
    }
}
