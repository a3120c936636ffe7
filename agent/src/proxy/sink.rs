//! Where audit records go: one line each into a buffer, written to the audit descriptor in batches. Never blocks an
//! exchange on the disk, and never loses a record silently: while the descriptor does not take what it is given, the sink
//! says so ([`Sink::takes_records`]) and no credential leaves.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

/// A batch is written when it has grown to this.
pub(crate) const BATCH_BYTES: usize = 32 * 1024;
/// And at the latest after this time.
pub(crate) const BATCH_DELAY: Duration = Duration::from_millis(20);
/// What may wait in memory while the descriptor takes nothing. Beyond it records are counted and dropped; no credential
/// has been given since the first failed write.
pub(crate) const BACKLOG_BYTES: usize = 1024 * 1024;

/// The audit descriptor and what has not been written to it yet.
#[derive(Debug)]
pub(crate) struct Sink {
    to: RefCell<OwnedFd>,
    waiting: RefCell<Vec<u8>>,
    broken: Cell<bool>,
    lost: Cell<u64>,
    first: Notify,
    /// Records that are open: exchanges under way.
    open: Cell<usize>,
}

impl Sink {
    /// A sink that writes to `to`; [`Sink::run`] has to be spawned for the delayed writes.
    pub(crate) fn new(to: OwnedFd) -> Rc<Self> {
        Rc::new(Self {
            to: RefCell::new(to),
            waiting: RefCell::new(Vec::with_capacity(4 * 1024)),
            broken: Cell::new(false),
            lost: Cell::new(0),
            first: Notify::new(),
            open: Cell::new(0),
        })
    }

    /// Whether records reach their destination. A credential is given only while they do.
    pub(crate) fn takes_records(&self) -> bool {
        !self.broken.get()
    }

    /// Records lost since the start, all of them while [`Sink::takes_records`] was false.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Whether no exchange is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    /// A record is open.
    pub(crate) fn opened(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// It is closed.
    pub(crate) fn closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// Adds one line: `write` appends a JSON object without the line's end.
    pub(crate) fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= BACKLOG_BYTES {
            self.lost.set(self.lost.get() + 1);
            return;
        }
        let first = waiting.is_empty();
        write(&mut waiting);
        waiting.push(b'\n');
        let full = waiting.len() >= BATCH_BYTES;
        drop(waiting);
        if full && !self.broken.get() {
            self.flush();
        } else if first {
            self.first.notify_one();
        }
    }

    /// Writes what waits. After a failure the rest stays, to be tried again.
    pub(crate) fn flush(&self) {
        let (mut waiting, to) = (self.waiting.borrow_mut(), self.to.borrow());
        let mut written = 0;
        let outcome = loop {
            if written == waiting.len() {
                break Ok(());
            }
            match nix::unistd::write(&*to, &waiting[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => break Err(io::Error::from(errno)),
            }
        };
        waiting.drain(..written);
        if waiting.capacity() > 4 * BATCH_BYTES && waiting.len() < BATCH_BYTES {
            waiting.shrink_to(BATCH_BYTES);
        }
        self.note(outcome);
    }

    /// Writes to another descriptor from now on. What waits goes to the old one, and what that doesn't take, to the new one.
    pub(crate) fn redirect(&self, to: OwnedFd) {
        self.flush();
        *self.to.borrow_mut() = to;
        self.flush();
    }

    fn note(&self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => {
                if self.broken.replace(false) {
                    tracing::warn!(
                        lost = self.lost.get(),
                        "audit records are being written again"
                    );
                }
            }
            Err(error) => {
                if !self.broken.replace(true) {
                    tracing::error!(%error, "audit records can't be written: no credential is given until they can");
                }
            }
        }
    }

    /// Writes each batch when it is due. Runs for the life of the process.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            if self.waiting.borrow().is_empty() {
                self.first.notified().await;
            }
            tokio::time::sleep(BATCH_DELAY).await;
            self.flush();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn pipe() -> (std::fs::File, OwnedFd) {
        let (read, write) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)
                .unwrap();
        (read.into(), write)
    }

    #[test]
    fn a_full_batch_is_written_at_once_and_the_rest_when_dropped() {
        let (mut out, to) = pipe();
        let sink = Sink::new(to);
        let line = "x".repeat(BATCH_BYTES);
        sink.append(|to| to.extend_from_slice(b"{}"));
        let mut seen = vec![0; 3 * BATCH_BYTES];
        assert!(out.read(&mut seen).is_err(), "a small batch waits");
        sink.append(|to| to.extend_from_slice(line.as_bytes()));
        assert_eq!(out.read(&mut seen).unwrap(), 3 + BATCH_BYTES + 1);
        sink.append(|to| to.extend_from_slice(b"last"));
        drop(sink);
        assert_eq!(out.read(&mut seen).unwrap(), 5);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_small_batch_is_written_after_the_delay() {
        let (mut out, to) = pipe();
        let sink = Sink::new(to);
        let local = tokio::task::LocalSet::new();
        local.spawn_local(Rc::clone(&sink).run());
        local
            .run_until(async {
                sink.append(|to| to.extend_from_slice(b"{\"a\":1}"));
                tokio::time::sleep(4 * BATCH_DELAY).await;
            })
            .await;
        let mut seen = [0; 16];
        let n = out.read(&mut seen).unwrap();
        assert_eq!(&seen[..n], b"{\"a\":1}\n");
    }

    #[test]
    fn what_waits_goes_to_the_old_file_or_else_to_the_new_one() {
        let ((mut old, to), (mut new, then)) = (pipe(), pipe());
        let sink = Sink::new(to);
        let mut seen = [0; 64];
        sink.append(|to| to.extend_from_slice(b"old"));
        sink.redirect(then);
        assert_eq!(old.read(&mut seen).unwrap(), 4);
        sink.append(|to| to.extend_from_slice(b"newer"));
        sink.flush();
        assert_eq!(new.read(&mut seen).unwrap(), 6);
        assert_eq!(old.read(&mut seen).unwrap(), 0, "nobody holds the old one");

        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (mut new, then) = pipe();
        let sink = Sink::new(full.into());
        sink.append(|to| to.extend_from_slice(b"kept"));
        sink.flush();
        assert!(!sink.takes_records());
        sink.redirect(then);
        assert!(sink.takes_records());
        assert_eq!(new.read(&mut seen).unwrap(), 5);
    }

    #[test]
    fn a_sink_that_takes_nothing_says_so_keeps_what_it_has_and_recovers() {
        let (mut out, to) = pipe();
        let filler = vec![b'.'; 1 << 20];
        while nix::unistd::write(to.as_fd(), &filler).is_ok() {}
        let sink = Sink::new(to);
        sink.append(|to| to.extend_from_slice(b"kept"));
        sink.flush();
        assert!(!sink.takes_records());
        for _ in 0..=BACKLOG_BYTES / 1024 {
            sink.append(|to| to.extend_from_slice(&[b'y'; 1024]));
        }
        assert!(sink.lost() > 0, "memory is bounded");
        let mut sunk = vec![0; 1 << 20];
        while !sink.takes_records() {
            let _ = out.read(&mut sunk).unwrap();
            sink.flush();
        }
        assert!(sink.takes_records());
    }
}
