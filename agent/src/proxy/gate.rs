//! What stands between a caller's bytes and hyper. It holds bytes back until a complete request head has passed the strict
//! scanner of `core::http`, then passes on exactly that head and its counted body: hyper never sees anything ambiguous,
//! and never reads past a violation. On a violation hyper sees the end of the stream; the connection then writes the
//! refusal itself. It also owns every deadline of the connection, so that one place says how slow a caller may be.
//!
//! It never interprets a request and never writes anything of its own.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use imds_guard_core::http::{Scanner, Verdict, Violation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a kept-alive connection may stay silent between two requests.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// How long a head may take, from its first byte.
pub(crate) const HEAD: Duration = Duration::from_secs(5);
/// How long a body may take, from the end of its head.
pub(crate) const BODY: Duration = Duration::from_secs(10);
/// How long the caller may refuse to take any more of its answer.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(10);
/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 4096;

/// Why the gate closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// What came breaks the rules, or came too slowly: the connection owes a refusal.
    Violation(Violation),
    /// Nothing came for [`IDLE`]: closed without a word, as any server does.
    Idle,
}

/// What the gate tells the connection beside the bytes.
#[derive(Debug, Default)]
pub(crate) struct Halted(Cell<Option<Halt>>);

impl Halted {
    /// Why the gate closed, if it did.
    pub(crate) fn get(&self) -> Option<Halt> {
        self.0.get()
    }
}

/// The adapter. `S` is the caller's socket.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    socket: S,
    /// Read from the socket and not yet passed on: `held[start..]`.
    held: Vec<u8>,
    start: usize,
    /// How many of those the scanner has seen: they belong to a head that is not whole.
    scanned: usize,
    scanner: Scanner,
    /// Bytes of a message whose head is clean that are still to be passed on.
    passing: usize,
    halted: Rc<Halted>,
    waiting: Option<Waiting>,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    stalled: Option<Pin<Box<Sleep>>>,
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

    const fn halt(self) -> Halt {
        match self {
            Self::Idle => Halt::Idle,
            Self::Head => Halt::Violation(Violation::SlowHead),
            Self::Body => Halt::Violation(Violation::SlowBody),
        }
    }
}

impl<S> Gate<S> {
    /// A closed gate before `socket`. A new connection has [`HEAD`] for its first head, as if it had begun it.
    pub(crate) fn new(socket: S) -> (Self, Rc<Halted>) {
        let halted = Rc::<Halted>::default();
        let deadline = Instant::now() + HEAD;
        let gate = Self {
            socket,
            held: Vec::new(),
            start: 0,
            scanned: 0,
            scanner: Scanner::new(),
            passing: 0,
            halted: Rc::clone(&halted),
            waiting: Some(Waiting::Head),
            deadline,
            timer: Box::pin(tokio::time::sleep_until(deadline)),
            stalled: None,
        };
        (gate, halted)
    }

    fn available(&self) -> &[u8] {
        &self.held[self.start..]
    }

    fn halt(&mut self, halt: Halt) {
        self.halted.0.set(Some(halt));
        self.passing = 0;
    }

    /// Shows the scanner what it has not seen; afterwards a message may be passing, or the gate is closed.
    fn scan(&mut self) {
        let fresh = &self.held[self.start + self.scanned..];
        if fresh.is_empty() {
            return;
        }
        match self.scanner.feed(fresh) {
            Verdict::NeedMore => self.scanned = self.held.len() - self.start,
            Verdict::Head(head) => {
                // The scanner allows no body that would not fit a usize.
                let body = usize::try_from(head.content_length).unwrap_or(usize::MAX);
                self.passing = head.len.saturating_add(body);
                self.scanned = 0;
                self.scanner = Scanner::new();
            }
            Verdict::Violation(violation) => self.halt(Halt::Violation(violation)),
        }
    }

    /// Passes on what is held of the open message.
    fn pass(&mut self, out: &mut ReadBuf<'_>) {
        let n = self
            .passing
            .min(out.remaining())
            .min(self.available().len());
        out.put_slice(&self.held[self.start..self.start + n]);
        self.start += n;
        self.passing -= n;
        if self.start == self.held.len() {
            self.held.clear();
            self.start = 0;
        }
        if self.passing == 0 {
            self.waiting = None;
        }
    }

    /// Ready when the deadline of what we wait for has passed. The timer is re-armed only when it fires or is too late:
    /// a request on a kept connection moves `deadline` and leaves the timer alone.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, waiting: Waiting) -> Poll<()> {
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

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Reads more from the socket; 0 at its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.held.drain(..self.start);
            self.start = 0;
        }
        let old = self.held.len();
        self.held.resize(old + READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.held[old..]);
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut buffer);
        let n = buffer.filled().len();
        self.held.truncate(old + n);
        ready!(polled)?;
        Poll::Ready(Ok(n))
    }

    fn waits_for(&self) -> Waiting {
        if self.passing > 0 {
            Waiting::Body
        } else if self.available().is_empty() && self.waiting != Some(Waiting::Head) {
            Waiting::Idle
        } else {
            Waiting::Head
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if gate.passing == 0 && gate.halted.get().is_none() {
                gate.scan();
            }
            if gate.halted.get().is_some() {
                return Poll::Ready(Ok(()));
            }
            if gate.passing > 0 && !gate.available().is_empty() {
                gate.pass(out);
                return Poll::Ready(Ok(()));
            }
            match gate.poll_fill(cx)? {
                Poll::Ready(0) => {
                    if gate.passing > 0 || !gate.available().is_empty() {
                        gate.halt(Halt::Violation(Violation::Truncated));
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let waiting = gate.waits_for();
                    ready!(gate.poll_deadline(cx, waiting));
                    gate.halt(waiting.halt());
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// A write that waits longer than [`WRITE_STALL`] fails: the caller takes nothing.
    fn poll_stall<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let wrote = Pin::new(&mut gate.socket).poll_write(cx, bytes);
        gate.poll_stall(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let wrote = Pin::new(&mut gate.socket).poll_write_vectored(cx, bytes);
        gate.poll_stall(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    /// Does nothing where a refusal is owed: hyper has seen the end of the stream and is done, the connection is not.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(Halt::Violation(_)) = self.halted.get() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
