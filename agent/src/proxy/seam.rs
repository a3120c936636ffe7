//! The proxy's end of the seam: asks with the accepted socket beside them, answers by id, and what the guard pushes.
//! Trusts what the guard says; never asks about a caller without the socket that the caller is on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::Duration;

use imds_guard_core::seam::{ANSWER_LIMIT, Answer, Ask, Refusal, SeamError};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::sys::scm;

/// Asks on their way at once. The guard works through them one by one: more would only wait there.
const ASKS: usize = 256;
/// How long the guard may take. Hashing a large executable for the first time is the slowest thing it does for us.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The guard says no.
    #[error("the guard refuses: {0:?}")]
    Refused(Refusal),
    /// Too many asks at once, or no answer in time.
    #[error("the guard is busy")]
    Busy,
    /// The seam is gone; this process ends soon.
    #[error("the guard is gone")]
    Gone,
    /// The ask can't be said in the seam's layout: the caller's words are too long for it, or no text.
    #[error("the ask can't be encoded: {0}")]
    Unsayable(SeamError),
    /// An answer of another kind than the ask's. A bug.
    #[error("the guard's answer does not fit the ask")]
    Mismatch,
}

/// Why the seam broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The guard has closed it.
    #[error("the guard is gone")]
    Closed,
    /// The socket failed.
    #[error("the socket to the guard failed: {0}")]
    Socket(#[source] Errno),
    /// A message that we don't understand: another version of the guard.
    #[error("the guard sent what we don't understand: {0}")]
    Codec(#[from] SeamError),
    /// More descriptors or bytes than we take.
    #[error("the guard sent more than fits")]
    Truncated,
}

/// One answer and its descriptors.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The seam, after the welcome.
#[derive(Debug)]
pub(crate) struct Seam {
    socket: AsyncFd<OwnedFd>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Reply>>>,
    next: Cell<u64>,
}

impl Seam {
    /// Takes over a connected socket, which is made non-blocking. Needs the runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Rc<Self>> {
        // By way of std, which uses an ioctl: the sandbox has no F_SETFL. The kind of socket does not matter for it.
        let socket = UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        let socket = OwnedFd::from(socket);
        #[expect(
            deprecated,
            reason = "unsound only for types that change their descriptor; an OwnedFd keeps its own for life"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Rc::new(Self {
            socket,
            waiting: RefCell::default(),
            next: Cell::new(1),
        }))
    }

    /// Asks about the caller on `socket`. `Refused` answers become errors.
    pub(crate) async fn ask<'a>(
        &self,
        socket: BorrowedFd<'_>,
        ask: impl FnOnce(u64) -> Ask<'a>,
    ) -> Result<Reply, AskError> {
        if self.waiting.borrow().len() >= ASKS {
            return Err(AskError::Busy);
        }
        let id = self.next.replace(self.next.get() + 1);
        let packet = ask(id).encode().map_err(AskError::Unsayable)?;
        let (sender, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let _forget = Forget { seam: self, id };
        let exchange = async {
            self.send(&packet, socket)
                .await
                .map_err(|_| AskError::Gone)?;
            answered.await.map_err(|_| AskError::Gone)
        };
        let reply = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| AskError::Busy)??;
        match reply.answer {
            Answer::Refused { reason, .. } => Err(AskError::Refused(reason)),
            _ => Ok(reply),
        }
    }

    async fn send(&self, packet: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                Ok(scm::send(socket.as_fd(), packet, &[fd])?)
            })
            .await
    }

    /// Delivers answers to those who wait for them, and pushes to `pushed`. Returns when the seam is broken; then
    /// everyone who waits is told.
    pub(crate) async fn run(&self, pushed: mpsc::UnboundedSender<Reply>) -> Broken {
        let mut buffer = vec![0; ANSWER_LIMIT];
        let broken = loop {
            match self.receive(&mut buffer).await {
                Ok(reply) => self.deliver(reply, &pushed),
                Err(broken) => break broken,
            }
        };
        self.waiting.borrow_mut().clear();
        broken
    }

    async fn receive(&self, buffer: &mut [u8]) -> Result<Reply, Broken> {
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                Ok(scm::recv(socket.as_fd(), buffer)?)
            })
            .await
            .map_err(|error| Broken::Socket(errno(&error)))?;
        read(buffer, received)
    }

    fn deliver(&self, reply: Reply, pushed: &mpsc::UnboundedSender<Reply>) {
        let Some(id) = id(&reply.answer) else {
            // The receiver lives as long as the process serves; after that nobody needs a push.
            drop(pushed.send(reply));
            return;
        };
        match self.waiting.borrow_mut().remove(&id) {
            // Whoever asked may have stopped waiting.
            Some(waits) => drop(waits.send(reply)),
            None => tracing::debug!(id, "an answer came too late"),
        }
    }
}

/// Takes an ask off the list however its future ends.
struct Forget<'a> {
    seam: &'a Seam,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.seam.waiting.borrow_mut().remove(&self.id);
    }
}

/// Receives one message on a socket that still blocks: the welcome, before there is a runtime.
pub(crate) fn receive_blocking(socket: BorrowedFd<'_>) -> Result<Reply, Broken> {
    let mut buffer = vec![0; ANSWER_LIMIT];
    let received = scm::recv(socket, &mut buffer).map_err(Broken::Socket)?;
    read(&buffer, received)
}

fn read(buffer: &[u8], received: scm::Received) -> Result<Reply, Broken> {
    if received.truncated {
        return Err(Broken::Truncated);
    }
    if received.len == 0 {
        return Err(Broken::Closed);
    }
    Ok(Reply {
        answer: Answer::decode(&buffer[..received.len])?,
        fds: received.fds,
    })
}

const fn id(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Welcome(_)
        | Answer::Policy(_)
        | Answer::Issuer(_)
        | Answer::Listeners(_)
        | Answer::Audit
        | Answer::Outbound
        | Answer::Revoke { .. }
        | Answer::Guests(_) => None,
        Answer::Attested(attested) => Some(attested.id),
        Answer::Signed(signed) => Some(signed.id),
        Answer::Unchanged { id } | Answer::Dialling { id } | Answer::Refused { id, .. } => {
            Some(*id)
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
