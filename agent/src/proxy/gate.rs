//! What stands between a caller's bytes and everything that reads them. It passes on whole messages: a head that has passed the
//! strict scanner of `core::http`, then exactly the body that it announces. Nothing behind it ever sees a byte past a
//! violation. It also owns every deadline of the connection, so that one place says how slow a caller may be.
//!
//! It never interprets a request and never writes anything of its own.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use imds_guard_core::http::{Head, Scanner, Verdict, Violation};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};

/// How long a kept-alive connection may stay silent between two requests.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// How long a head may take, from its first byte.
pub(crate) const HEAD: Duration = Duration::from_secs(5);
/// How long a body may take, from the end of its head.
pub(crate) const BODY: Duration = Duration::from_secs(10);
/// How long the caller may refuse to take any more of its answer.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(10);
/// Bytes asked of the socket at a time, and kept between two messages.
const READ_BYTES: usize = 4096;
/// A head up to this long is remembered: SDKs send less. What a longer one costs is its scan.
const REMEMBERED: usize = 2048;

/// Why no more messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The caller closed between two messages.
    Closed,
    /// The socket failed: there is nobody left to answer.
    Broken,
    /// Nothing came for [`IDLE`], or for so long that somebody else has its seat now: closed without a word, as any server does.
    Idle,
    /// What came breaks the rules, or came too slowly: the connection owes a refusal.
    Violation(Violation),
}

/// The gate before the caller's socket `S`.
pub(crate) struct Gate<S> {
    socket: S,
    /// Read from the socket and not yet done with: `held[start..]`.
    held: Vec<u8>,
    start: usize,
    /// How many of those the scanner has seen: they belong to a head that is not whole.
    scanned: usize,
    scanner: Scanner,
    /// The message that is passing, until the next one is asked for.
    open: Option<Head>,
    /// The last head that passed and its bytes. The scanner's verdict depends on the bytes of a head alone, so the same
    /// bytes again pass as they did.
    passed: Option<(Head, Vec<u8>)>,
    patience: Patience,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> fmt::Debug for Gate<S> {
    /// Shows nothing of what it holds: headers can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// For what, and until when, the caller is waited for.
struct Patience {
    waiting: Option<Waiting>,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Idle,
    Head,
    Body,
}

impl Waiting {
    const fn allowance(self) -> Duration {
        match self {
            Self::Idle => IDLE,
            Self::Head => HEAD,
            Self::Body => BODY,
        }
    }

    const fn ended(self) -> Ended {
        match self {
            Self::Idle => Ended::Idle,
            Self::Head => Ended::Violation(Violation::SlowHead),
            Self::Body => Ended::Violation(Violation::SlowBody),
        }
    }
}

impl Patience {
    fn new() -> Self {
        let deadline = Instant::now() + HEAD;
        Self {
            waiting: Some(Waiting::Head),
            deadline,
            timer: Box::pin(tokio::time::sleep_until(deadline)),
        }
    }

    /// Ready when the deadline of what we wait for has passed. The timer is re-armed only when it fires or is too late:
    /// a request on a kept connection moves `deadline` and leaves the timer alone.
    fn poll(&mut self, cx: &mut Context<'_>, waiting: Waiting) -> Poll<()> {
        if self.waiting != Some(waiting) {
            self.waiting = Some(waiting);
            self.deadline = Instant::now() + waiting.allowance();
            if self.timer.deadline() > self.deadline {
                self.timer.as_mut().reset(self.deadline);
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.deadline);
        }
    }
}

impl<S> Gate<S> {
    /// A closed gate before `socket`. A new connection has [`HEAD`] for its first head, as if it had begun it.
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            held: Vec::new(),
            start: 0,
            scanned: 0,
            scanner: Scanner::new(),
            open: None,
            passed: None,
            patience: Patience::new(),
            stalled: None,
        }
    }

    fn available(&self) -> &[u8] {
        &self.held[self.start..]
    }

    /// The bytes of the open message's head; none where there is no open message.
    pub(crate) fn head_bytes(&self) -> &[u8] {
        let len = self.open.map_or(0, |head| head.len);
        &self.available()[..len]
    }

    /// Whether all of the open message is here, so that another may follow.
    pub(crate) fn is_whole(&self) -> bool {
        self.open
            .is_none_or(|head| self.available().len() >= length(&head))
    }

    /// Shows the scanner what it has not seen.
    fn scan(&mut self) -> Result<Option<Head>, Ended> {
        if self.scanned == 0
            && let Some((head, bytes)) = &self.passed
            && self.available().starts_with(bytes)
        {
            return Ok(Some(*head));
        }
        let fresh = &self.held[self.start + self.scanned..];
        if fresh.is_empty() {
            return Ok(None);
        }
        match self.scanner.feed(fresh) {
            Verdict::NeedMore => {
                self.scanned = self.available().len();
                Ok(None)
            }
            Verdict::Head(head) => {
                self.scanned = 0;
                self.scanner = Scanner::new();
                let bytes = &self.available()[..head.len];
                self.passed = (head.len <= REMEMBERED).then(|| (head, bytes.to_vec()));
                Ok(Some(head))
            }
            Verdict::Violation(violation) => Err(Ended::Violation(violation)),
        }
    }

    /// Lets go of the open message; what has not come of it is left to the caller of this to have asked for.
    fn close(&mut self) {
        let Some(head) = self.open.take() else {
            return;
        };
        self.start += length(&head).min(self.available().len());
        self.patience.waiting = None;
        if self.start == self.held.len() {
            self.held.clear();
            self.held.shrink_to(READ_BYTES);
            self.start = 0;
        }
    }

    fn waits_for(&self) -> Waiting {
        if self.open.is_some() {
            Waiting::Body
        } else if self.available().is_empty() && self.patience.waiting != Some(Waiting::Head) {
            Waiting::Idle
        } else {
            Waiting::Head
        }
    }
}

/// Of a message, head and body.
fn length(head: &Head) -> usize {
    // The scanner allows no body that would not fit a usize.
    let body = usize::try_from(head.content_length).unwrap_or(usize::MAX);
    head.len.saturating_add(body)
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// The next message's head; the one before is done with, and was whole.
    ///
    /// # Errors
    /// There is no other.
    pub(crate) async fn head(&mut self) -> Result<Head, Ended> {
        self.close();
        loop {
            if let Some(head) = self.scan()? {
                self.open = Some(head);
                return Ok(head);
            }
            if self.fill().await? == 0 {
                return Err(if self.available().is_empty() {
                    Ended::Closed
                } else {
                    Ended::Violation(Violation::Truncated)
                });
            }
        }
    }

    /// The open message's body.
    ///
    /// # Errors
    /// It did not come.
    pub(crate) async fn body(&mut self) -> Result<&[u8], Ended> {
        while !self.is_whole() {
            if self.fill().await? == 0 {
                return Err(Ended::Violation(Violation::Truncated));
            }
        }
        let message = self.open.map_or(0..0, |head| head.len..length(&head));
        Ok(&self.available()[message])
    }

    /// Reads more from the socket; 0 at its end.
    async fn fill(&mut self) -> Result<usize, Ended> {
        let waiting = self.waits_for();
        if self.start > 0 {
            self.held.drain(..self.start);
            self.start = 0;
        }
        if self.held.capacity() - self.held.len() < READ_BYTES {
            self.held.reserve(READ_BYTES);
        }
        let patience = &mut self.patience;
        // Into room that is not cleared before: nothing is read of it but what the socket wrote.
        let mut read = pin!(self.socket.read_buf(&mut self.held));
        poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read.map_err(|_| Ended::Broken)),
            Poll::Pending => patience.poll(cx, waiting).map(|()| Err(waiting.ended())),
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Writes an answer, in one go where the socket takes it.
    ///
    /// # Errors
    /// The caller has gone, or takes nothing for [`WRITE_STALL`].
    pub(crate) async fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < head.len() + body.len() {
            let rest = [
                IoSlice::new(&head[written.min(head.len())..]),
                IoSlice::new(&body[written.saturating_sub(head.len())..]),
            ];
            written += match poll_fn(|cx| self.poll_write(cx, &rest)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => n,
            };
        }
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        rest: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(wrote) = Pin::new(&mut self.socket).poll_write_vectored(cx, rest) {
            self.stalled = None;
            return Poll::Ready(wrote);
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests;
