//! Workloads: real processes with a uid, gids and a cgroup, that dial the metadata service like anybody.

use crate::{Response, Space, World, binary};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// Who a process of a test is.
#[derive(Debug, Clone)]
pub struct Workload<'w> {
    world: &'w World,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cgroup: String,
    space: Option<&'w Space>,
    own_netns: bool,
    pid_namespace_of: Option<u32>,
}

impl<'w> Workload<'w> {
    pub(crate) fn new(world: &'w World, name: &str) -> Self {
        Self {
            world,
            uid: 1000,
            gid: 2000,
            groups: Vec::new(),
            cgroup: format!("{name}.service"),
            space: None,
            own_netns: false,
            pid_namespace_of: None,
        }
    }

    /// With this uid.
    #[must_use]
    pub fn uid(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    /// With this primary gid.
    #[must_use]
    pub fn gid(self, gid: u32) -> Self {
        Self { gid, ..self }
    }

    /// With these supplementary groups.
    #[must_use]
    pub fn groups(self, groups: &[u32]) -> Self {
        Self {
            groups: groups.to_vec(),
            ..self
        }
    }

    /// In this cgroup below the world's (`system.slice/billing.service`).
    #[must_use]
    pub fn in_cgroup(self, path: &str) -> Self {
        Self {
            cgroup: path.to_owned(),
            ..self
        }
    }

    /// In this network namespace instead of the world's own.
    #[must_use]
    pub fn in_space(self, space: &'w Space) -> Self {
        Self {
            space: Some(space),
            ..self
        }
    }

    /// Each of its processes in a new network namespace: with a loopback that is down, and nothing else.
    #[must_use]
    pub fn in_own_netns(self) -> Self {
        Self {
            own_netns: true,
            ..self
        }
    }

    /// In the pid namespace of this process.
    #[must_use]
    pub fn in_pid_namespace_of(self, pid: u32) -> Self {
        Self {
            pid_namespace_of: Some(pid),
            ..self
        }
    }

    /// Its uid and gid.
    #[must_use]
    pub fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// The cgroup's directory.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn cgroup(&self) -> Result<PathBuf> {
        self.world.cgroup_below(&self.cgroup)
    }

    /// Run `program` as this workload to its end, with its output.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        self.run_with(program, arguments, &[])
    }

    /// The same, with environment variables (all others are removed, but for PATH).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run_with(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Output> {
        let mut command = self.command(program, arguments)?;
        command
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        self.enter(move || command.output().context("could not start a workload"))
    }

    /// Start `program` as this workload, with pipes for all three of its streams.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, program: &Path, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command(program, arguments)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.enter(move || command.spawn().context("could not start a workload"))
    }

    fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self.space {
            Some(space) => self.world.enter_space(space, work),
            None => self.world.enter(work),
        }
    }

    /// Dial `address` as this workload, and hold the connection.
    ///
    /// # Errors
    /// When the connection is refused: the message is the operating system's.
    pub fn connect(&self, address: &str) -> Result<Caller> {
        self.connect_with(address, &[])
    }

    /// The same, with options of `probe` (`--device=tw-up`, `--within=1000`).
    ///
    /// # Errors
    /// As [`Workload::connect`].
    pub fn connect_with(&self, address: &str, options: &[&str]) -> Result<Caller> {
        let probe = self.world.show(&binary("probe")?, "probe")?;
        Caller::new(self.spawn(&probe, &[options, &[address]].concat())?)
    }

    /// One request over a connection of its own to Azure's address, as SDKs send it (`Metadata: true`).
    ///
    /// # Errors
    /// When the connection is refused or the answer isn't HTTP.
    pub fn get(&self, target: &str) -> Result<Response> {
        let mut caller = self.connect(crate::AZURE_IMDS)?;
        caller.send(
            format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n")
                .as_bytes(),
        )?;
        caller.response()
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new("sh");
        // The shell moves itself, then becomes setpriv, which becomes the program: one pid, from the first moment in its cgroup.
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(self.cgroup()?);
        if self.own_netns {
            command.args(["unshare", "--net", "--"]);
        }
        if let Some(pid) = self.pid_namespace_of {
            command.args(["nsenter", &format!("--pid=/proc/{pid}/ns/pid"), "--"]);
        }
        command.args([
            "setpriv",
            "--reuid",
            &self.uid.to_string(),
            "--regid",
            &self.gid.to_string(),
        ]);
        match self.groups.as_slice() {
            [] => command.arg("--clear-groups"),
            groups => command.arg("--groups").arg(
                groups
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        };
        command.arg("--").arg(program).args(arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(command)
    }
}

/// A workload's process that holds one connection: what is sent here goes out there, and back. Dropped, it is killed.
#[derive(Debug)]
pub struct Caller {
    process: Child,
    to: ChildStdin,
    from: ChildStdout,
    held: Vec<u8>,
}

impl Caller {
    fn new(mut process: Child) -> Result<Self> {
        let (Some(to), Some(mut from)) = (process.stdin.take(), process.stdout.take()) else {
            bail!("a workload without pipes")
        };
        // The probe says one byte when the connection stands, so that a test knows on which side of connect() it is.
        let mut mark = [0];
        if from.read(&mut mark)? == 1 && mark == *b"C" {
            return Ok(Self {
                process,
                to,
                from,
                held: Vec::new(),
            });
        }
        let output = process.wait_with_output()?;
        bail!(
            "not connected: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Send bytes.
    ///
    /// # Errors
    /// When the probe has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.to
            .write_all(bytes)
            .and_then(|()| self.to.flush())
            .context("the workload is gone")
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the connection closes before a whole answer has come, or what came isn't HTTP.
    pub fn response(&mut self) -> Result<Response> {
        Response::read(&mut self.from, &mut self.held)
    }

    /// All that still comes until the other side closes.
    ///
    /// # Errors
    /// When reading fails.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut all = std::mem::take(&mut self.held);
        self.from.read_to_end(&mut all)?;
        Ok(all)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
