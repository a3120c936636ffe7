//! The guard's end of [`crate::control`]: the socket in the run directory, at which root alone is heard. What is asked is read at
//! once and shortly: whoever is root and doesn't speak must not stop the loop.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::GuardError;
use crate::control::{Answer, Ask, LIMIT, SOCKET};
use crate::sys::scm;
use crate::sys::watch::watch;

/// The asking side writes as soon as it is connected.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where operators ask.
#[derive(Debug)]
pub(super) struct Control {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
}

/// Somebody with root's power who has asked something.
#[derive(Debug)]
pub(super) struct Asking(UnixStream);

impl Control {
    /// Binds the socket in the run directory.
    pub(super) fn open(run: &Path) -> Result<Self, GuardError> {
        let path = run.join(SOCKET);
        let bound = bind(&path).and_then(|fd| watch(fd, Interest::READABLE));
        let listener = bound.map_err(|source| GuardError::Path {
            path: path.clone(),
            source,
            remedy: "make the run directory writable for root, or name another with --run-dir",
        })?;
        Ok(Self { listener, path })
    }

    /// The next who asks; others than root are turned away. Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<Asking> {
        loop {
            let accept = |listener: &OwnedFd| Ok(scm::accept(listener.as_fd())?);
            let fd = self.listener.async_io(Interest::READABLE, accept).await?;
            let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
            if peer.uid() == 0 {
                return Ok(Asking(fd.into()));
            }
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "turned away: not root");
        }
    }
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory lets others look; whoever comes is asked who it is all the same.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

impl Drop for Control {
    fn drop(&mut self) {
        // Another guard's start removes what is left; nothing depends on this.
        drop(std::fs::remove_file(&self.path));
    }
}

impl Asking {
    /// What is asked.
    pub(super) fn read(&self) -> io::Result<Ask> {
        self.0.set_nonblocking(false)?;
        self.0.set_read_timeout(Some(PATIENCE))?;
        self.0.set_write_timeout(Some(PATIENCE))?;
        let mut text = vec![];
        (&self.0).take(LIMIT).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Answers; the connection ends.
    pub(super) fn answer(mut self, answer: &Answer) -> io::Result<()> {
        let mut answer = answer.clone();
        let most = usize::try_from(LIMIT / 4).unwrap_or(usize::MAX);
        if answer.told.len() > most {
            let end = answer.told.floor_char_boundary(most);
            answer.told.truncate(end);
        }
        self.0.write_all(&serde_json::to_vec(&answer)?)
    }
}
