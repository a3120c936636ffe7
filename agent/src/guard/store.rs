//! The service manager's store of descriptors (sd_notify(3), `FDSTORE=1`): what listens outlives the guard there, so that
//! callers of a restart wait in the queue instead of being refused. It is kept while the unit restarts and let go when the
//! unit stops for good. Where nobody keeps anything (no manager, no `FileDescriptorStoreMax=`), nothing is lost but that.
//!
//! Must never keep what is not in force: a start that fails lets everything go, for nobody would answer.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::intercept::{Change, Kept, Listeners};
use crate::notify::connected;
use crate::sys::{scm, spawn};

/// sd_notify(3): keep what comes with this; forget what is called so.
const STORE: &str = "FDSTORE=1";
const REMOVE: &str = "FDSTOREREMOVE=1";
/// The name of the issuer's listener.
const ISSUER: &str = "issuer";
/// What names of callers' listeners begin with; the cookie of their network namespace follows.
const SPACE: &str = "netns-";

/// What the manager keeps, and what it has yet to be given.
#[derive(Debug)]
pub(super) struct Store {
    manager: Option<OsString>,
    kept: BTreeSet<String>,
    waiting: VecDeque<(String, Arc<Listeners>)>,
}

/// What came back at this start.
#[derive(Debug, Default)]
pub(super) struct Returned {
    pub(super) listeners: Vec<Kept>,
    pub(super) issuer: Option<Kept>,
    names: BTreeSet<String>,
}

impl Returned {
    /// Takes what the manager gave us. To be called once, before any other descriptor is made.
    pub(super) fn take() -> Self {
        let mut returned = Self::default();
        let given = match sd_notify::listen_fds_with_names() {
            Ok(given) => given,
            Err(error) => {
                tracing::warn!(%error, "what the service manager kept can't be taken back");
                return returned;
            }
        };
        for (number, name) in given {
            let Ok(fd) = spawn::inherited(number) else {
                continue;
            };
            let kept = Kept { name, fd };
            if kept.name == ISSUER {
                returned.issuer = Some(kept);
            } else {
                returned.names.insert(kept.name.clone());
                returned.listeners.push(kept);
            }
        }
        returned
    }

    /// The store, with what is in it already.
    pub(super) fn store(&self) -> Store {
        Store {
            manager: is_systemds_own()
                .then(|| std::env::var_os("NOTIFY_SOCKET"))
                .flatten(),
            kept: self.names.clone(),
            waiting: VecDeque::new(),
        }
    }
}

impl Store {
    /// Keeps these, as soon as the manager takes them.
    pub(super) fn keep(&mut self, listeners: &Arc<Listeners>) {
        let name = name(listeners.netns_cookie);
        if self.manager.is_some() && !self.kept.contains(&name) {
            self.waiting.push_back((name, Arc::clone(listeners)));
            self.flush();
        }
    }

    /// Keeps the issuer's. Whether it is the one that came back doesn't matter: the manager keeps none twice.
    pub(super) fn keep_issuer(&mut self, listener: &OwnedFd) {
        if let Err(error) = self.send(ISSUER, STORE, &[listener.as_fd()]) {
            tracing::debug!(%error, "the issuer's listener can't be kept over a restart");
        }
    }

    /// Keeps step with the namespaces.
    pub(super) fn changed(&mut self, change: &Change) {
        match change {
            Change::Opened(listeners) => self.keep(listeners),
            Change::Closed { netns_cookie } => self.ended(*netns_cookie),
        }
    }

    /// The listeners of this namespace are shut down: the manager has seen that, and let them go.
    fn ended(&mut self, netns_cookie: u64) {
        let name = name(netns_cookie);
        self.waiting.retain(|(waiting, _)| *waiting != name);
        self.kept.remove(&name);
    }

    /// Hands over what waits. One that the manager has no room for now is tried again at the next call.
    pub(super) fn flush(&mut self) {
        while let Some((name, listeners)) = self.waiting.front() {
            let fds: Vec<_> = std::iter::once(&listeners.v4)
                .chain(&listeners.v6)
                .map(AsFd::as_fd)
                .collect();
            if let Err(error) = self.send(name, STORE, &fds) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "a listener can't be kept over a restart");
                }
                return;
            }
            if let Some((name, _)) = self.waiting.pop_front() {
                self.kept.insert(name);
            }
        }
    }

    /// Has the manager forget what is called so.
    pub(super) fn forget(&mut self, name: &str) {
        self.kept.remove(name);
        if let Err(error) = self.send(name, REMOVE, &[]) {
            tracing::warn!(%error, name, "the service manager can't be told to let a listener go");
        }
    }

    /// Has it forget everything: nobody will answer there.
    pub(super) fn let_go(&mut self) {
        for name in std::mem::take(&mut self.kept) {
            self.forget(&name);
        }
        self.forget(ISSUER);
    }

    fn send(&self, name: &str, what: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(manager) = &self.manager else {
            return Ok(());
        };
        let text = format!("{what}\nFDNAME={name}\n");
        scm::send(connected(manager)?.as_fd(), text.as_bytes(), fds).map_err(io::Error::from)
    }
}

/// Whether systemd itself has started this process, and says so (since 248). Whoever else is behind `NOTIFY_SOCKET` may leave what
/// it gets unread, and a listener in such a queue keeps callers waiting for nobody.
fn is_systemds_own() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

fn name(netns_cookie: u64) -> String {
    format!("{SPACE}{netns_cookie}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn listeners(netns_cookie: u64) -> Arc<Listeners> {
        let open = || std::fs::File::open("/dev/null").unwrap().into();
        Arc::new(Listeners {
            netns_cookie,
            v4: open(),
            v6: Some(open()),
        })
    }

    #[test]
    fn the_manager_gets_each_pair_once_under_its_name_and_is_told_to_forget_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut store = Store {
            manager: Some(path.into()),
            kept: BTreeSet::from(["netns-7".to_owned()]),
            waiting: VecDeque::new(),
        };
        store.keep(&listeners(7));
        store.keep(&listeners(8));
        let mut buffer = [0; 64];
        let got = scm::recv(manager.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..got.len], b"FDSTORE=1\nFDNAME=netns-8\n");
        assert_eq!(got.fds.len(), 2);
        store.keep(&listeners(8));
        store.ended(8);
        store.let_go();
        let got = scm::recv(manager.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..got.len], b"FDSTOREREMOVE=1\nFDNAME=netns-7\n");
    }

    #[test]
    fn a_manager_without_room_gets_it_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut store = Store {
            manager: Some(path.into()),
            kept: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        (0..2000).for_each(|n| store.keep(&listeners(n)));
        let waits = store.waiting.len();
        assert!(waits > 0, "its queue took them all");
        scm::recv(manager.as_fd(), &mut [0; 64]).unwrap();
        store.flush();
        assert_eq!(store.waiting.len(), waits - 1);
    }

    #[test]
    fn without_a_manager_nothing_waits() {
        let mut store = Store {
            manager: None,
            kept: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        store.keep(&listeners(1));
        assert!(store.waiting.is_empty());
    }
}
