//! A listener in each network namespace that a guarded process lives in: found, opened, and closed again.
//!
//! One thread does all of it ([`Keeper`]), because setns(2) is a thread's own and because callers wait for it: the guard's
//! loop may be busy with attestation. It hears of a new namespace from the kernel (`ebpf/src/arrival.rs`) when the first
//! socket is made in it, and looks at all processes below the attach root at the start and again every few seconds
//! ([`scan`]): for what the kernel's notes missed, and for namespaces in which nobody lives any more, which our listeners
//! alone keep. What it opens and closes the guard's loop hears as [`Change`]s.
//!
//! Until its listener stands, a namespace is refused by the kernel. So everything here fails closed: a namespace that can't
//! be entered, whose tenant has taken the port, or for which there is no room, stays refused, and is tried again.
//!
//! While everything is in observe nobody is steered, and no namespace is entered: `lo` stays down where it is down, and the port
//! is anybody's. Before an endpoint leaves observe, all namespaces get theirs ([`Switch::serve`]).
//!
//! Must never: run anything in a namespace but the opening of our sockets; believe that a process is where it was (the
//! cookie that counts is the opened socket's own).

mod keeper;
mod scan;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use aya::maps::{HashMap, MapData, RingBuf};
use keeper::Keeper;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::sync::mpsc;

use super::kept::Pair;
use super::{InterceptError, Listeners};
use crate::sys::sockopt;

/// The cookie of the calling thread's namespace.
pub(super) fn cookie_here() -> Result<u64, InterceptError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let any = socket(AddressFamily::Unix, SockType::Datagram, flags, None);
    let any = any.map_err(|e| InterceptError::system("making a socket")(e.into()))?;
    sockopt::netns_cookie(any.as_fd()).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => InterceptError::missing("SO_NETNS_COOKIE".into()),
        _ => InterceptError::system("reading the namespace's cookie")(error),
    })
}

/// What became of a namespace.
#[derive(Debug, Clone)]
pub enum Change {
    /// It has listeners now, and the kernel steers to them.
    Opened(Arc<Listeners>),
    /// Nobody lives in it: its listeners are shut down in all processes that hold them.
    Closed {
        /// Its cookie.
        netns_cookie: u64,
    },
}

/// The changes, in order. Dropping it ends the thread; listeners stay with whoever holds them.
#[derive(Debug)]
pub struct Namespaces(mpsc::UnboundedReceiver<Change>);

/// Tells the thread whether namespaces get listeners.
#[derive(Debug)]
pub(super) struct Switch {
    serve: Arc<Serve>,
    /// A word for each look around that somebody waits for.
    looked: Receiver<()>,
}

/// Whether namespaces get listeners: not while everything is in observe, which touches nothing.
#[derive(Debug)]
pub(super) struct Serve {
    wanted: AtomicBool,
    /// Wakes the thread.
    told: EventFd,
}

/// What the thread works with.
pub(super) struct Means {
    /// The listeners' port.
    pub(super) port: u16,
    /// Processes below this cgroup are guarded.
    pub(super) root: PathBuf,
    /// The kernel's map of listener marks.
    pub(super) marks: OwnedFd,
    /// The kernel's table of namespaces that it need not tell us of.
    pub(super) known: HashMap<MapData, u64, u64>,
    /// The kernel's notes.
    pub(super) arrivals: RingBuf<MapData>,
    /// Listeners of a former run, by the cookie of their namespace.
    pub(super) kept: BTreeMap<u64, Pair>,
}

/// As long as it may take to go through all namespaces before an endpoint is enforced; those that are left are refused until
/// their turn.
const GO_THROUGH: Duration = Duration::from_secs(4);

impl Serve {
    fn new(wanted: bool) -> Result<Self, InterceptError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let told = EventFd::from_value_and_flags(0, flags)
            .map_err(|e| InterceptError::system("making an eventfd")(e.into()))?;
        Ok(Self {
            wanted: wanted.into(),
            told,
        })
    }
}

impl Switch {
    /// Whether namespaces get listeners from now on. When they do, it returns when those that there are have theirs. What has
    /// one keeps it.
    pub(super) fn serve(&self, wanted: bool) {
        if self.serve.wanted.swap(wanted, Ordering::AcqRel) || !wanted {
            return;
        }
        let _of_a_look_that_came_too_late = self.looked.try_recv();
        let asked = self.serve.told.write(1).is_ok();
        if !asked || self.looked.recv_timeout(GO_THROUGH).is_err() {
            tracing::warn!(
                "not all network namespaces have listeners yet: until then their processes are refused"
            );
        }
    }
}

impl Namespaces {
    /// Starts the thread, in the caller's namespace, whose listeners are `home`. Returns when it has gone once through all
    /// namespaces that there are.
    pub(super) fn start(
        means: Means,
        home: Arc<Listeners>,
        serve: bool,
    ) -> Result<(Self, Switch), InterceptError> {
        let (changes, receiver) = mpsc::unbounded_channel();
        let (looked, has_looked) = sync_channel(1);
        let (around, has_looked_around) = sync_channel(1);
        let serve = Arc::new(Serve::new(serve)?);
        let served = Arc::clone(&serve);
        let thread = move || {
            let keeper = Keeper::new(means, home, changes, served, around);
            let keeper = keeper.and_then(|mut keeper| keeper.look().map(|()| keeper));
            let (told, keeper) = match keeper {
                Ok(keeper) => (looked.send(Ok(())), Some(keeper)),
                Err(error) => (looked.send(Err(error)), None),
            };
            if let (Ok(()), Some(mut keeper)) = (told, keeper) {
                keeper.run();
            }
        };
        let system = || InterceptError::system("the thread that enters network namespaces");
        std::thread::Builder::new()
            .name("namespaces".into())
            .spawn(thread)
            .map_err(system())?;
        let ended = |_| io::Error::other("it ended at once");
        let looked = has_looked.recv().map_err(ended).map_err(system())?;
        looked.map_err(system())?;
        let looked = has_looked_around;
        Ok((Self(receiver), Switch { serve, looked }))
    }

    /// The next change. Cancel safe. Waits for ever where the thread has failed, which it says in the log: what has a
    /// listener keeps it, and new namespaces are refused.
    pub async fn next(&mut self) -> Change {
        match self.0.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    }

    /// The next change, where there is no runtime; `None`: the thread has failed.
    pub fn wait(&mut self) -> Option<Change> {
        self.0.blocking_recv()
    }
}
