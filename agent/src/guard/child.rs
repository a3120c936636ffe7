//! The proxy as a child: started over a socketpair, watched by pidfd, started again when it ends, more slowly each time.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::seam::Seam;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn;
use crate::sys::watch::watch;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// A proxy that lived this long did not die of its start.
const LIVED: Duration = Duration::from_secs(10);

/// Who the proxy is, and how soon it may be started again.
#[derive(Debug)]
pub(super) struct Spawner {
    uid: Uid,
    gid: Gid,
    root: PathBuf,
    pause: Duration,
}

/// A running proxy.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
    since: Instant,
}

impl Spawner {
    /// For this user, with this empty directory as all that it sees.
    pub(super) fn new(uid: Uid, gid: Gid, root: &Path) -> Self {
        Self {
            uid,
            gid,
            root: root.into(),
            pause: SHORTEST,
        }
    }

    /// Starts a proxy.
    pub(super) fn start(&self) -> io::Result<(Running, Seam)> {
        let (ours, theirs) = Seam::pair()?;
        // The very file that we are, also when a package upgrade has replaced it on disk meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("imds-guard").arg("proxy").stdin(Stdio::null());
        let number = spawn::inherit(&mut command, theirs);
        command
            .arg(format!("--seam-fd={number}"))
            .arg(format!("--user={}:{}", self.uid, self.gid))
            .arg("--root")
            .arg(&self.root)
            .arg(format!("--parent={}", std::process::id()))
            .env_clear();
        for name in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn()?;
        drop(command);
        let pidfd = PidFd::open(child.id())
            .map_err(io::Error::from)
            .and_then(|fd| watch(fd.into(), Interest::READABLE));
        match pidfd {
            Ok(pidfd) => Ok((
                Running {
                    child,
                    pidfd,
                    since: Instant::now(),
                },
                ours,
            )),
            Err(error) => {
                // A child that can't be watched must not run.
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// When the next one may start, after one that lived from `since` until now.
    pub(super) fn again_at(&mut self, since: Option<Instant>) -> Instant {
        let now = Instant::now();
        if since.is_some_and(|since| now - since >= LIVED) {
            self.pause = SHORTEST;
        }
        let at = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
        at
    }
}

impl Running {
    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// Its end, once [`Running::ended`] has said so.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// When it was started.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, if it is there still.
    pub(super) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_dies_at_its_start_is_started_ever_more_slowly() {
        let mut spawner = Spawner::new(Uid::from_raw(1), Gid::from_raw(1), Path::new("/"));
        let mut pauses = vec![];
        for _ in 0..10 {
            pauses.push(spawner.again_at(Some(Instant::now())) - Instant::now());
        }
        assert_eq!(pauses[0], SHORTEST);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[9], LONGEST);
        let long_ago = Instant::now();
        tokio::time::advance(LIVED).await;
        assert_eq!(spawner.again_at(Some(long_ago)) - Instant::now(), SHORTEST);
    }
}
