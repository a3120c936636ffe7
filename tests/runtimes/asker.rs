//! A process that waits somewhere (a unit, a container) and asks the metadata service each time it is told to. It is told
//! through a directory with two pipes, which a container has mounted: what asks is the workload's own process, not one that was
//! sent into it.

use anyhow::{Context, Result, bail, ensure};
use imds_guard_tests::{FakeAzure, Machine, Outcome, UPSTREAM_TOKEN};
use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where these directories are.
const PLACE: &str = "/run/askers";
/// An attempt takes at most seconds, and an emulated machine isn't fast.
const PATIENCE: Duration = Duration::from_secs(40);
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// The near ends of the pipes.
#[derive(Debug)]
pub(crate) struct Asker {
    directory: PathBuf,
    out: File,
}

impl Asker {
    /// The pipes for one called `name`. Whoever is to ask runs [`Asker::script`].
    pub(crate) fn new(name: &str) -> Result<Self> {
        let directory = Path::new(PLACE).join(name);
        let _of_an_earlier_test = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        // Whose engine it is writes a pid file there.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
        for pipe in ["in", "out"] {
            let pipe = directory.join(pipe);
            mkfifo(&pipe, Mode::empty())?;
            // Whatever its user is.
            fs::set_permissions(&pipe, fs::Permissions::from_mode(0o666))?;
        }
        let out = File::options()
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open(directory.join("out"))?;
        Ok(Self { directory, out })
    }

    /// To be mounted into a container.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What `sh -c` is to run, where the pipes are seen at `at`.
    pub(crate) fn script(at: &Path) -> String {
        let at = at.display();
        format!(
            r#"while read -r line <{at}/in; do {{ eval "$line"; echo "END $?"; }} >{at}/out 2>&1; done"#
        )
    }

    /// Have it run one line of shell; what that printed.
    pub(crate) fn tell(&self, line: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        self.into(deadline)?
            .write_all(format!("{line}\n").as_bytes())?;
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match (&self.out).read(&mut piece) {
                Ok(0) => {}
                Ok(length) => said.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            let text = String::from_utf8_lossy(&said);
            if let Some((before, code)) = text.rsplit_once("END ")
                && code.ends_with('\n')
            {
                return Ok(before.to_owned());
            }
            ensure!(
                Instant::now() < deadline,
                "{}: no end of {line}: {text}",
                self.directory.display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn into(&self, deadline: Instant) -> Result<File> {
        let mut options = File::options();
        options.write(true).custom_flags(O_NONBLOCK);
        loop {
            match options.open(self.directory.join("in")) {
                Ok(pipe) => return Ok(pipe),
                // It isn't there yet.
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("nobody listens at {}", self.directory.display())
                    });
                }
            }
        }
    }

    /// Without us it reaches the service, so nothing else keeps it from there.
    pub(crate) fn reaches(&self, azure: &FakeAzure) -> Result<()> {
        let outcome = self.attempt(azure)?;
        ensure!(outcome.from() == Some(Machine::ADDRESS), "{outcome:?}");
        Ok(())
    }

    /// One attempt to get the real service's token.
    pub(crate) fn attempt(&self, azure: &FakeAzure) -> Result<Outcome> {
        insisting(azure, || self.tell(&attempt_at("169.254.169.254:80")))
    }
}

/// Asks by `ask` until the answer isn't 504, as SDKs do: an emulated machine, on a busy host, can't always keep the agent's
/// limit of a second.
pub(crate) fn insisting(azure: &FakeAzure, ask: impl Fn() -> Result<String>) -> Result<Outcome> {
    for _ in 0..4 {
        let asked = azure.received().len();
        let outcome = judge(&ask()?, azure, asked)?;
        if outcome != Outcome::Nothing("504".to_owned()) {
            return Ok(outcome);
        }
    }
    bail!("504, again and again")
}

/// The line of shell that asks for the token at `address`. What is dropped on its way is given up on after 1.5 s; who is refused
/// dials again for a while, as SDKs do: a network namespace may have been seen for the first time.
pub(crate) fn attempt_at(address: &str) -> String {
    format!(
        r"printf '%b' 'GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n' | probe --within=1500 --again=1500 {address}"
    )
}

/// What enforce mode makes of an attempt: the token by way of the host, or a refusal.
pub(crate) fn enforced(served: bool) -> Outcome {
    if served {
        Outcome::Obtained(Machine::ADDRESS)
    } else {
        Outcome::Nothing("403".to_owned())
    }
}

/// What an attempt's output says, and what the service saw of it.
fn judge(said: &str, azure: &FakeAzure, asked: usize) -> Result<Outcome> {
    let received = azure.received().split_off(asked);
    match (said.contains(UPSTREAM_TOKEN), &received[..]) {
        (true, [one]) => Ok(Outcome::Obtained(one.from)),
        (false, []) => {
            let status = said.strip_prefix("CHTTP/1.1 ");
            let told = status.map_or(said, |rest| rest.get(..3).unwrap_or(rest));
            Ok(Outcome::Nothing(told.trim().to_owned()))
        }
        _ => bail!("{said:?} and {received:?}"),
    }
}
