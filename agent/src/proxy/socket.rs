//! The accepted socket, shared between the stream of bytes (the gate reads and writes it) and the facts about it (the
//! kernel's record, and asks to the guard, go by its descriptor).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// One of the holders of an accepted socket. It closes with the last.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Rc<TcpStream>);

impl Socket {
    /// Shares `stream`.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Rc::new(stream))
    }

    /// Writes what fits now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Reads what is there. Where that is less than there is room for, the socket is empty (epoll tells of each edge), and
    /// the runtime is told so: without this each request costs one more read, to be told that there is nothing.
    fn read_once(&self, into: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut short = None;
        let room = into.remaining();
        let outcome = self
            .0
            .try_io(Interest::READABLE, || match self.0.try_read_buf(into) {
                Ok(n) if n > 0 && n < room => {
                    short = Some(n);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                outcome => outcome,
            });
        short.map_or(outcome, Ok)
    }

    /// Ready when the caller has hung up. Never where it has sent something more first: then it is there.
    pub(crate) async fn hung_up(&self) {
        match self.0.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => std::future::pending().await,
            _ => {}
        }
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.read_once(out) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(
            nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&*self.0),
                nix::sys::socket::Shutdown::Write,
            )
            .map_err(Into::into),
        )
    }
}
