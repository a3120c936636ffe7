//! The thread: takes the kernel's notes, goes into namespaces, looks around.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use imds_guard_ebpf::{Arrival, Cause, STANDING};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use tokio::sync::mpsc::UnboundedSender;

use super::table::Table;
use super::{Change, Means, Serve, scan};
use crate::intercept::kept::Pair;
use crate::intercept::{InterceptError, Listeners};
use crate::sys::netns::{self, Lost, Traveller};
use crate::sys::{bpf, clock};

/// Namespaces with listeners at once, where the limit of open files allows as many.
const MOST: usize = 4096;
/// The first look after interception came into force: for namespaces made while it did.
const SOON: Duration = Duration::from_millis(100);
/// From the end of a look around to the next.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A look takes about this part of the time: on a host with very many processes they are further apart.
const LOOK_SHARE: u32 = 200;
/// But not further than this: one look that had a thousand listeners to open must not put off the next for minutes.
const LOOK_AT_LATEST: Duration = Duration::from_secs(10);
/// Processes looked at before the kernel's notes get their turn, for callers wait for those.
const STRIDE: usize = 64;
/// Kinds of trouble remembered, so that each is told once.
const TOLD: usize = 1024;

/// See the module's head.
pub(super) struct Keeper {
    means: Means,
    traveller: Traveller,
    table: Table,
    changes: UnboundedSender<Change>,
    told: HashSet<String>,
    next_look: Instant,
    serve: Arc<Serve>,
    /// Who waits for a look around hears of it here.
    looked: SyncSender<()>,
}

/// Why a namespace has no listeners now.
#[derive(Debug, thiserror::Error)]
enum Unserved {
    #[error(transparent)]
    Full(#[from] super::table::Full),
    #[error("it can't be entered: {0}")]
    Closed(io::Error),
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl Keeper {
    /// On the thread that is to travel.
    pub(super) fn new(
        mut means: Means,
        home: Arc<Listeners>,
        changes: UnboundedSender<Change>,
        serve: Arc<Serve>,
        looked: SyncSender<()>,
    ) -> io::Result<Self> {
        let traveller = Traveller::from_here()?;
        let inode = inode(traveller.home())?;
        // What a former run knew is no longer so: its listeners went with it.
        let former: Vec<u64> = means.known.keys().flatten().collect();
        for cookie in former {
            // Gone already is as good.
            drop(means.known.remove(&cookie));
        }
        let mut keeper = Self {
            table: Table::new(Arc::clone(&home), inode, most()),
            means,
            traveller,
            changes,
            told: HashSet::new(),
            next_look: Instant::now() + SOON,
            serve,
            looked,
        };
        keeper.stands(home.netns_cookie);
        for (cookie, pair) in std::mem::take(&mut keeper.means.kept) {
            if let Err(error) = keeper.take_back(pair) {
                tracing::warn!(netns = cookie, %error, "a listener that the service manager kept is not used");
            }
        }
        Ok(keeper)
    }

    /// Listeners of a former run go on. If nobody lives with them any more, the next looks find that, as they do for others.
    fn take_back(&mut self, pair: Pair) -> Result<(), Unserved> {
        let listeners = pair.into_listeners().map_err(Unserved::Closed)?;
        let back = self.put_back(&listeners);
        if back.is_err() {
            // It would keep the port from whoever opens one there next.
            listeners.shut_down();
        }
        back?;
        drop(self.changes.send(Change::Opened(listeners)));
        Ok(())
    }

    fn put_back(&mut self, listeners: &Arc<Listeners>) -> Result<(), Unserved> {
        let netns = netns::of_socket(listeners.v4.as_fd()).map_err(Unserved::Closed)?;
        let owner = netns::owner(netns.as_fd()).map_err(Unserved::Closed)?;
        let inode = inode(netns.as_fd()).map_err(Unserved::Closed)?;
        self.table.room(owner)?;
        listeners.mark(&self.means.marks)?;
        self.table.insert(Arc::clone(listeners), inode, owner);
        self.stands(listeners.netns_cookie);
        Ok(())
    }

    /// Until nobody wants to hear of changes any more.
    pub(super) fn run(&mut self) {
        while !self.changes.is_closed() {
            let until = self.next_look.saturating_duration_since(Instant::now());
            let worked = self
                .sleep(until)
                .and_then(|()| self.drain())
                .and_then(|()| {
                    // Somebody waits, whether for the first or for another one.
                    let asked = self.serve.told.read().is_ok();
                    if !asked && Instant::now() < self.next_look {
                        return Ok(());
                    }
                    let from = Instant::now();
                    self.look()?;
                    self.next_look = Instant::now()
                        + (from.elapsed() * LOOK_SHARE).clamp(LOOK_EVERY, LOOK_AT_LATEST);
                    if asked {
                        let _who_waited_long_enough_has_gone_on = self.looked.try_send(());
                    }
                    Ok(())
                });
            if let Err(error) = worked {
                tracing::error!(%error, "no listeners are opened in further network namespaces: restart the guard");
                return;
            }
        }
    }

    fn sleep(&self, until: Duration) -> io::Result<()> {
        let ring = bpf::ring_fd(&self.means.arrivals);
        let mut wanted = [
            PollFd::new(ring, PollFlags::POLLIN),
            PollFd::new(self.serve.told.as_fd(), PollFlags::POLLIN),
        ];
        // One more millisecond, or the last one is spent turning round.
        let milliseconds = u16::try_from(until.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut wanted, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes all of the kernel's notes that there are.
    fn drain(&mut self) -> io::Result<()> {
        while let Some(arrival) = self
            .means
            .arrivals
            .next()
            .and_then(|b| bpf::arrival_from(&b))
        {
            self.arrived(&arrival)?;
        }
        Ok(())
    }

    fn arrived(&mut self, arrival: &Arrival) -> io::Result<()> {
        let cookie = arrival.netns_cookie;
        match self.table.get(cookie).map(|space| space.listeners.listen()) {
            Some(true) => {
                // The kernel had forgotten it. (If a connect found no listener it is one over IPv6, where there is none:
                // then the note's own pace has to stay.)
                if arrival.cause == Cause::Socket as u32 {
                    self.stands(cookie);
                }
                return Ok(());
            }
            // Whoever rules the namespace can destroy sockets in it.
            Some(false) => self.close(cookie),
            None => {}
        }
        let Ok(netns) = netns::of_task(arrival.tgid, arrival.tid) else {
            return Ok(());
        };
        if let Some(opened) = self.serve(netns.as_fd())? {
            tracing::debug!(
                netns = opened,
                pid = arrival.tgid,
                after_us = since_us(arrival.at_ns),
                "listening in a new network namespace"
            );
        }
        Ok(())
    }

    /// Opens listeners in a namespace that has none, and puts them into service; its cookie. Tells what is wrong, once
    /// each; an error only where this thread is lost.
    fn serve(&mut self, netns: BorrowedFd<'_>) -> io::Result<Option<u64>> {
        if !self.serve.wanted.load(Ordering::Acquire) {
            return Ok(None);
        }
        // The descriptor keeps the namespace, hence its inode.
        let inode = inode(netns)?;
        if self.table.has_inode(inode) {
            return Ok(None);
        }
        match self.open(netns, inode) {
            Ok(cookie) => Ok(Some(cookie)),
            Err(Unserved::Lost(lost)) => Err(io::Error::other(lost)),
            Err(error) => {
                self.tell(inode, &error);
                Ok(None)
            }
        }
    }

    fn open(&mut self, netns: BorrowedFd<'_>, inode: u64) -> Result<u64, Unserved> {
        let owner = netns::owner(netns).map_err(Unserved::Closed)?;
        self.table.room(owner)?;
        let port = self.means.port;
        let marks = std::slice::from_ref(&self.means.marks);
        let open = || -> Result<Listeners, Unserved> {
            netns::loopback_up().map_err(Unserved::Closed)?;
            Ok(Listeners::open(port, marks, Pair::default())?)
        };
        let entered = self.traveller.visit(netns, open)?;
        let listeners = entered.map_err(Unserved::Closed)??;
        let cookie = listeners.netns_cookie;
        listeners.mark(&self.means.marks)?;
        let listeners = Arc::new(listeners);
        self.table.insert(Arc::clone(&listeners), inode, owner);
        self.stands(cookie);
        // Nobody hears it at the end of the process only.
        drop(self.changes.send(Change::Opened(listeners)));
        Ok(cookie)
    }

    fn tell(&mut self, inode: u64, error: &Unserved) {
        if self.told.len() >= TOLD {
            self.told.clear();
        }
        // A full table is one trouble, not one per namespace.
        let which = match error {
            Unserved::Full(full) => full.to_string(),
            other => format!("{inode} {other}"),
        };
        if self.told.insert(which) {
            tracing::warn!(inode, %error, "no listener in a network namespace, so its processes are refused; it is tried again");
        }
    }

    /// Looks at all guarded processes: serves the namespaces that have no listeners, gives up those without processes.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let processes = scan::processes(&self.means.root);
        let mut present = HashSet::new();
        for (n, pid) in processes.iter().enumerate() {
            if n % STRIDE == STRIDE - 1 {
                self.drain()?;
            }
            let Ok(inode) = scan::of_process(*pid) else {
                continue;
            };
            if present.insert(inode)
                && !self.table.has_inode(inode)
                && let Ok(netns) = netns::of_task(*pid, *pid)
            {
                self.serve(netns.as_fd())?;
            }
        }
        for (inode, path) in scan::named() {
            if present.insert(inode)
                && !self.table.has_inode(inode)
                && let Ok(netns) = std::fs::File::open(path)
            {
                self.serve(netns.as_fd())?;
            }
        }
        if self.table.misses_any(&present) {
            self.look_at_threads(&processes, &mut present)?;
        }
        for cookie in self.table.seen(&present) {
            self.close(cookie);
        }
        Ok(())
    }

    /// A namespace may have threads in it and no process: those of a runtime that prepares containers, for one.
    fn look_at_threads(&mut self, processes: &[u32], present: &mut HashSet<u64>) -> io::Result<()> {
        for (n, pid) in processes.iter().enumerate() {
            if n % STRIDE == STRIDE - 1 {
                self.drain()?;
            }
            let threads = scan::threads(*pid);
            let others = threads.into_iter().filter(|tid| tid != pid);
            present.extend(others.filter_map(|tid| scan::of_thread(*pid, tid).ok()));
        }
        Ok(())
    }

    /// The kernel need not tell us of this one.
    fn stands(&mut self, cookie: u64) {
        if let Err(error) = self.means.known.insert(cookie, STANDING, 0) {
            // It only tells us more than it has to.
            tracing::debug!(%error, "the kernel's table of namespaces");
        }
    }

    fn close(&mut self, netns_cookie: u64) {
        let Some(space) = self.table.remove(netns_cookie) else {
            return;
        };
        // Whoever comes back is told of again.
        drop(self.means.known.remove(&netns_cookie));
        space.listeners.shut_down();
        tracing::debug!(
            netns = netns_cookie,
            "nobody lives in this network namespace: not listening in it any more"
        );
        drop(self.changes.send(Change::Closed { netns_cookie }));
    }
}

fn inode(netns: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fstat(netns)?.st_ino)
}

/// Microseconds since a moment of `CLOCK_MONOTONIC`.
fn since_us(at_ns: u64) -> u128 {
    clock::monotonic()
        .saturating_sub(Duration::from_nanos(at_ns))
        .as_micros()
}

/// Each namespace takes two descriptors, here and in the proxy, which has more use for its own.
fn most() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    MOST.min(usize::try_from(limit / 8).unwrap_or(MOST))
}
