//! The guard's end of the seam to one proxy. One message in, one answer out: the next ask is read only when the last answer
//! has left, so whatever the proxy does, what it can make us hold is bounded.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use imds_guard_core::seam::{self, ASK_LIMIT, Answer, SeamError};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
    socketpair, sockopt,
};
use nix::unistd::Uid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::GuardError;
use crate::intercept::Listeners;
use crate::sys::scm;
use crate::sys::watch::watch;

/// Messages that may wait for a proxy. Answers wait one at a time; the rest are pushes, one per reload.
const OUTBOX_LIMIT: usize = 16;

/// Namespaces whose listeners go in one message.
const LISTENERS_AT_ONCE: usize = scm::MAX_FDS / 2;

/// A connection to a proxy.
#[derive(Debug)]
pub(super) struct Seam {
    /// There until it is dropped.
    socket: Option<AsyncFd<OwnedFd>>,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Listeners that the proxy doesn't have yet: as many as there are namespaces, so not in the outbox.
    offered: VecDeque<Arc<Listeners>>,
    closer: Closer,
}

/// The proxy doesn't read what it is sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("the proxy does not read its messages")]
    Full,
    #[error(transparent)]
    Codec(#[from] SeamError),
}

impl Seam {
    /// Takes over a connected socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            socket: Some(watch(socket, Interest::READABLE | Interest::WRITABLE)?),
            outbox: VecDeque::new(),
            offered: VecDeque::new(),
            closer: Closer::start()?,
        })
    }

    /// A connected pair: ours, and the one that the child inherits.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Puts a message into the outbox.
    pub(super) fn post(&mut self, answer: &Answer, fds: Vec<OwnedFd>) -> Result<(), PostError> {
        if self.outbox.len() >= OUTBOX_LIMIT {
            return Err(PostError::Full);
        }
        self.outbox.push_back((answer.encode()?, fds));
        Ok(())
    }

    /// Hands on listeners in another namespace, after everything that is posted now.
    pub(super) fn offer(&mut self, listeners: Arc<Listeners>) {
        self.offered.push_back(listeners);
    }

    /// The listeners of this namespace are shut down: they need not be handed on any more.
    pub(super) fn withdraw(&mut self, netns_cookie: u64) {
        self.offered.retain(|l| l.netns_cookie != netns_cookie);
    }

    /// The next thing that happens: everything posted has left and an ask is here. Cancel safe.
    ///
    /// # Errors
    /// Where the proxy is gone or sent more than fits.
    pub(super) async fn next(&mut self, buffer: &mut [u8; ASK_LIMIT]) -> io::Result<scm::Received> {
        self.flush().await?;
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let received = socket
            .async_io(Interest::READABLE, |socket| {
                Ok(scm::recv(socket.as_fd(), buffer)?)
            })
            .await?;
        if !received.truncated && received.len > 0 {
            return Ok(received);
        }
        // Descriptors can come with an empty message, too.
        self.discard(received.fds)?;
        Err(if received.truncated {
            io::Error::other("it sent more than any message has")
        } else {
            io::ErrorKind::UnexpectedEof.into()
        })
    }

    /// Closes what came with a message.
    ///
    /// # Errors
    /// Where a close still waits for what the proxy sent before: no socket of an honest one does.
    pub(super) fn discard(&self, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.closer.close(fds)
    }

    async fn flush(&mut self) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        while let Some((bytes, fds)) = self.outbox.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            socket
                .async_io(Interest::WRITABLE, |socket| {
                    Ok(scm::send(socket.as_fd(), bytes, &borrowed)?)
                })
                .await?;
            self.outbox.pop_front();
        }
        while !self.offered.is_empty() {
            let count = self.offered.len().min(LISTENERS_AT_ONCE);
            let (bytes, borrowed) = batch(self.offered.iter().take(count))?;
            socket
                .async_io(Interest::WRITABLE, |socket| {
                    Ok(scm::send(socket.as_fd(), &bytes, &borrowed)?)
                })
                .await?;
            self.offered.drain(..count);
        }
        Ok(())
    }
}

/// The message about some listeners, and their descriptors.
fn batch<'a>(
    some: impl Iterator<Item = &'a Arc<Listeners>>,
) -> io::Result<(Vec<u8>, Vec<BorrowedFd<'a>>)> {
    let of_one = |l: &'a Arc<Listeners>| {
        let fds = std::iter::once(&l.v4).chain(&l.v6);
        fds.map(|fd| (l.netns_cookie, fd.as_fd()))
    };
    let (netns_cookies, fds) = some.flat_map(of_one).unzip();
    let message = Answer::Listeners(seam::Listeners { netns_cookies });
    Ok((message.encode().map_err(io::Error::other)?, fds))
}

impl Drop for Seam {
    fn drop(&mut self) {
        // Asks that nobody has read have sockets with them.
        if let Some(socket) = self.socket.take() {
            let all_or_nothing = self.closer.close(vec![socket.into_inner()]);
            drop(all_or_nothing);
        }
    }
}

/// Messages whose descriptors may wait to be closed.
const CLOSING_LIMIT: usize = 256;

/// Closes descriptors on a thread of its own. The last close of a socket waits for its peer for as long as `SO_LINGER` says,
/// which is up to whoever holds the socket: so a proxy could stop the thread that all else depends on.
#[derive(Debug)]
struct Closer(SyncSender<Vec<OwnedFd>>);

impl Closer {
    fn start() -> io::Result<Self> {
        let (to, closing) = sync_channel(CLOSING_LIMIT);
        let close = move || closing.into_iter().for_each(drop);
        std::thread::Builder::new()
            .name("close".into())
            .stack_size(64 << 10)
            .spawn(close)?;
        Ok(Self(to))
    }

    fn close(&self, fds: Vec<OwnedFd>) -> io::Result<()> {
        match self.0.try_send(fds) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(fds) | TrySendError::Disconnected(fds)) => {
                // Not here, whatever it costs. The seam ends, so this happens once or twice per proxy.
                drop(std::thread::Builder::new().spawn(move || drop(fds)));
                Err(io::Error::other("closing what it sent takes too long"))
            }
        }
    }
}

/// The socket at which a proxy of its own unit knocks.
#[derive(Debug)]
pub(super) struct Door {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
    proxy: Uid,
}

impl Door {
    /// Binds `seam.sock` in the run directory, for the proxy's user alone.
    pub(super) fn open(
        run: &Path,
        proxy: Uid,
        group: nix::unistd::Gid,
    ) -> Result<Self, GuardError> {
        let path = &run.join("seam.sock");
        let at = |source: io::Error| GuardError::Path {
            path: path.into(),
            source,
            remedy: "make the run directory writable for root, or name another with --run-dir",
        };
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(e)),
            _ => {}
        }
        let bound = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
            bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
            let mode = nix::sys::stat::Mode::from_bits_truncate(0o660);
            let at = nix::sys::stat::FchmodatFlags::FollowSymlink;
            nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path, mode, at)?;
            nix::unistd::chown(path, None, Some(group))?;
            listen(&fd, Backlog::new(4)?)?;
            Ok(fd)
        };
        let fd = bound().map_err(|errno| at(errno.into()))?;
        Ok(Self {
            listener: watch(fd, Interest::READABLE).map_err(at)?,
            path: path.into(),
            proxy,
        })
    }

    /// The next proxy; others than the proxy's user are turned away. Cancel safe.
    pub(super) async fn accept(&self) -> io::Result<Seam> {
        loop {
            let fd = self
                .listener
                .async_io(Interest::READABLE, |listener| {
                    Ok(scm::accept(listener.as_fd())?)
                })
                .await?;
            let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
            if peer.uid() == self.proxy.as_raw() {
                return Seam::new(fd);
            }
            tracing::warn!(
                uid = peer.uid(),
                pid = peer.pid(),
                "turned away from the seam: not the proxy's user"
            );
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Another guard's start removes what is left; nothing depends on this.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imds_guard_core::seam::{Ask, Refusal};

    fn rt<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(work)
    }

    fn refused(id: u64) -> Answer {
        Answer::Refused {
            id,
            reason: Refusal::Busy,
        }
    }

    #[test]
    fn an_ask_arrives_and_what_was_posted_leaves_first() {
        rt(async {
            let (mut ours, theirs) = Seam::pair().unwrap();
            ours.post(&refused(1), vec![]).unwrap();
            let ask = Ask::Attest { id: 5 }.encode().unwrap();
            scm::send(theirs.as_fd(), &ask, &[theirs.as_fd()]).unwrap();
            let mut buffer = [0; ASK_LIMIT];
            let got = ours.next(&mut buffer).await.unwrap();
            assert_eq!(got.fds.len(), 1);
            assert_eq!(Ask::decode(&buffer[..got.len]).unwrap().id(), 5);
            let mut answer = [0; 64];
            let got = scm::recv(theirs.as_fd(), &mut answer).unwrap();
            assert_eq!(Answer::decode(&answer[..got.len]).unwrap(), refused(1));
        });
    }

    #[test]
    fn a_proxy_that_does_not_read_can_not_make_us_grow() {
        rt(async {
            let (mut ours, _theirs) = Seam::pair().unwrap();
            for id in 0..OUTBOX_LIMIT as u64 {
                ours.post(&refused(id), vec![]).unwrap();
            }
            assert!(matches!(
                ours.post(&refused(0), vec![]),
                Err(PostError::Full)
            ));
        });
    }

    #[test]
    fn too_long_a_message_and_a_closed_seam_end_it() {
        rt(async {
            let (mut ours, theirs) = Seam::pair().unwrap();
            scm::send(theirs.as_fd(), &[0; ASK_LIMIT + 1], &[]).unwrap();
            assert!(ours.next(&mut [0; ASK_LIMIT]).await.is_err());
            drop(theirs);
            assert!(ours.next(&mut [0; ASK_LIMIT]).await.is_err());
        });
    }
}
