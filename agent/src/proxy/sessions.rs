//! Who the connected processes are: attested by the guard once per process, kept while the process lives, and checked to be
//! still the same at each request without a message to the guard. Decides nothing about what a process may have; what it
//! holds of the policy is only which workload a process is, per epoch.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use imds_guard_core::policy::Workload;
use imds_guard_core::seam::{Answer, Ask, AttestedFd, Subject};
use imds_guard_core::selector::Selectors;
use imds_guard_ebpf::{CallerRecord, missing};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;

use super::policy::Policy;
use super::seam::{AskError, Reply, Seam};
use crate::caller::Caller;
use crate::sys::pidfd::PidFd;

/// Processes known at once. Each costs a descriptor and about a kilobyte; those without a connection make room first.
pub(crate) const SESSIONS: usize = 4096;

/// What makes two connections those of one process in one state: everything of the record that selectors rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Process(ProcessKey),
    Guest(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ProcessKey {
    tgid: u32,
    start: u64,
    cgroups: [u64; 2],
    ids: [u32; 4],
    exe: (u32, u64),
    missing: u32,
    netns: u64,
}

impl Key {
    const fn of(caller: &Caller) -> Self {
        match caller {
            Caller::Process(record) => Self::Process(ProcessKey::of(record)),
            Caller::Guest(guest) => Self::Guest(guest.key),
        }
    }

    /// Whether it is the one that the guard speaks of.
    fn is(self, subject: Subject) -> bool {
        match (self, subject) {
            (Self::Process(ours), Subject::Process(theirs)) => {
                (ours.tgid, ours.start) == (theirs.tgid, theirs.start_ns)
            }
            (Self::Guest(ours), Subject::Guest(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

impl ProcessKey {
    const fn of(record: &CallerRecord) -> Self {
        Self {
            tgid: record.tgid,
            start: record.start_boottime,
            cgroups: [record.cgroup_id, record.socket_cgroup_id],
            ids: [
                record.uid,
                record.gid,
                record.effective_uid,
                record.effective_gid,
            ],
            exe: (record.exe_dev, record.exe_inode),
            missing: record.missing,
            netns: record.netns_cookie,
        }
    }
}

/// One attested process.
#[derive(Debug)]
pub(crate) struct Session {
    selectors: Selectors,
    pidfd: Rc<PidFd>,
    judged: RefCell<Option<(u64, Rc<Workload>)>>,
    /// Requests without a session token (AWS).
    imdsv1: Cell<u64>,
    watch: AbortHandle,
}

/// Whether the process is still the one that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Still {
    /// It is, as far as the kernel tells without the guard.
    There,
    /// It has exited.
    Gone,
    /// It runs with other ids or in another cgroup than recorded at connect.
    Changed,
    /// This kernel can't tell us: the guard has to be asked.
    Unknown,
}

impl Session {
    /// Compares the living process with the record of a connection of its own. One system call, two before Linux 6.16.
    pub(crate) fn still(&self, caller: &Caller) -> Still {
        let Some(record) = caller.process() else {
            // A guest is where it was, or its descriptor says otherwise.
            return match self.pidfd.exited() {
                Ok(false) => Still::There,
                Ok(true) | Err(_) => Still::Gone,
            };
        };
        let info = self.pidfd.info();
        let alive = info.is_ok_and(|info| info.is_alive());
        // A descriptor that can't be polled proves nothing: not there.
        if !alive && self.pidfd.exited().unwrap_or(true) {
            return Still::Gone;
        }
        let info = match info {
            Ok(info) => info,
            Err(Errno::ENOTTY | Errno::EINVAL) => return Still::Unknown,
            Err(_) => return Still::Gone,
        };
        let effective = !record.has(missing::EFFECTIVE_IDS)
            || (info.euid, info.egid) == (record.effective_uid, record.effective_gid);
        let same = info.tgid == record.tgid
            && (info.ruid, info.rgid) == (record.uid, record.gid)
            && info.cgroup_id == record.cgroup_id;
        if same && effective {
            Still::There
        } else {
            Still::Changed
        }
    }

    /// Counts one more request of it without a session token, and says how many there were.
    pub(crate) fn count_imdsv1(&self) -> u64 {
        self.imdsv1.set(self.imdsv1.get().saturating_add(1));
        self.imdsv1.get()
    }

    /// The workload that this process is under `policy`: found once per epoch.
    pub(crate) fn workload(&self, policy: &Policy) -> Rc<Workload> {
        let mut judged = self.judged.borrow_mut();
        match &*judged {
            Some((epoch, workload)) if *epoch == policy.epoch => Rc::clone(workload),
            _ => {
                let workload = Rc::new(policy.set.identify(&self.selectors));
                *judged = Some((policy.epoch, Rc::clone(&workload)));
                workload
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

type Slot = Rc<OnceCell<Rc<Session>>>;

/// All known processes.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: RefCell<HashMap<Key, Slot>>,
}

impl Sessions {
    /// The session of the process that is recorded as the caller on `socket`: known already, or attested now. Concurrent
    /// connections of one process wait for one attestation; where it fails, the next one asks about its own socket.
    pub(crate) async fn of(
        self: &Rc<Self>,
        seam: &Seam,
        socket: BorrowedFd<'_>,
        caller: &Caller,
    ) -> Result<Rc<Session>, AskError> {
        let key = Key::of(caller);
        let slot = self.slot(key)?;
        let session = slot
            .get_or_try_init(|| self.attest(seam, socket, key))
            .await
            .cloned();
        if session.is_err() && slot.get().is_none() && Rc::strong_count(&slot) <= 2 {
            self.slots.borrow_mut().remove(&key);
        }
        session
    }

    fn slot(&self, key: Key) -> Result<Slot, AskError> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get(&key) {
            return Ok(Rc::clone(slot));
        }
        if slots.len() >= SESSIONS {
            slots.retain(|_, slot| is_used(slot));
            if slots.len() >= SESSIONS {
                return Err(AskError::Busy);
            }
        }
        Ok(Rc::clone(slots.entry(key).or_default()))
    }

    async fn attest(
        self: &Rc<Self>,
        seam: &Seam,
        socket: BorrowedFd<'_>,
        key: Key,
    ) -> Result<Rc<Session>, AskError> {
        let reply = seam.ask(socket, |id| Ask::Attest { id }).await?;
        let (subject, selectors, pidfd) = attested(reply)?;
        if !key.is(subject) {
            return Err(AskError::Mismatch);
        }
        let pidfd = Rc::new(pidfd);
        let watch =
            tokio::task::spawn_local(forget_at_exit(Rc::downgrade(self), key, Rc::clone(&pidfd)));
        Ok(Rc::new(Session {
            selectors,
            pidfd,
            judged: RefCell::default(),
            imdsv1: Cell::new(0),
            watch: watch.abort_handle(),
        }))
    }

    /// Forgets everyone: what the guard finds out about a process may rest on the configuration that has just changed.
    /// Live connections keep their sessions and are judged by the new policy.
    pub(crate) fn clear(&self) {
        self.slots
            .borrow_mut()
            .retain(|_, slot| !slot.initialized());
    }
}

/// Whether a connection holds the session, or waits for it.
fn is_used(slot: &Slot) -> bool {
    match slot.get() {
        Some(session) => Rc::strong_count(session) > 1,
        None => Rc::strong_count(slot) > 1,
    }
}

fn attested(reply: Reply) -> Result<(Subject, Selectors, PidFd), AskError> {
    let Answer::Attested(attested) = reply.answer else {
        return Err(AskError::Mismatch);
    };
    let pidfd = attested
        .fds
        .iter()
        .zip(reply.fds)
        .find_map(|(what, fd)| (matches!(what, AttestedFd::Pidfd | AttestedFd::Gone)).then_some(fd))
        .ok_or(AskError::Mismatch)?;
    Ok((attested.subject, attested.selectors, pidfd.into()))
}

/// Waits for the end of a process and drops what is known of it.
async fn forget_at_exit(sessions: Weak<Sessions>, key: Key, pidfd: Rc<PidFd>) {
    #[expect(
        deprecated,
        reason = "unsound only for types that change their descriptor; a PidFd keeps its own for life"
    )]
    let watched = AsyncFd::with_interest(pidfd, Interest::READABLE);
    let Ok(exit) = watched else {
        // Not watched, so not kept: the next connection asks again. Live ones still check at each request.
        if let Some(sessions) = sessions.upgrade() {
            sessions.slots.borrow_mut().remove(&key);
        }
        return;
    };
    if exit.readable().await.is_ok()
        && let Some(sessions) = sessions.upgrade()
    {
        sessions.slots.borrow_mut().remove(&key);
    }
}
