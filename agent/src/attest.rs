//! Who is calling: the facts that the kernel recorded at `connect()` become selectors.
//!
//! Owns the order (pin the process, prove that it is the recorded one, then look) and the cache per process. Never
//! believes a pid without its start time, never takes the successor's facts for the connector's, and never widens: what
//! could not be looked up is unavailable, not absent.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::CallerRecord;
use nix::errno::Errno;

use crate::sys::pidfd::PidFd;
use crate::sys::proc::{Proc, ProcessDir};

pub mod accounts;
pub mod cgroup;
pub mod executable;
pub mod process;
pub mod systemd;
pub mod unix;

/// Most processes that stay attested; beyond it those that have exited go, then the oldest.
pub const CACHE_LIMIT: usize = 1024;

/// `PROC_USER_INIT_INO` of `include/linux/proc_ns.h`: the initial user namespace, the same on every kernel.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Why a caller can't be attested at all. In each case the answer is a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The process that connected has exited.
    #[error("process {0} is gone")]
    Gone(u32),
    /// Its pid belongs to a process that started at another time.
    #[error("pid {0} belongs to another process now")]
    Recycled(u32),
    /// It is no longer what it was when it connected.
    #[error("process {0} has changed its {1} since it connected")]
    Changed(u32, &'static str),
    /// Its facts can't be read.
    #[error("process {0}: {1}: {2}")]
    Unreadable(u32, &'static str, #[source] Errno),
    /// Not a program's process: whoever had the kernel connect isn't known.
    #[error("{0} is a thread of the kernel's own, which connects for somebody unknown")]
    Kernel(u32),
    /// The kernel could not record enough to name the process.
    #[error("the kernel's record lacks {0}")]
    Incomplete(&'static str),
}

/// One attested process. Holds it by descriptors, so it can't be confused with a successor.
#[derive(Debug)]
pub struct Attested {
    /// What was found.
    pub selectors: Selectors,
    /// The process itself.
    pub pidfd: PidFd,
    /// Its `/proc` directory.
    pub dir: ProcessDir,
    /// Its supplementary groups; none where they could not be read.
    groups: Option<Vec<u32>>,
    /// Name of the parent at attestation: a hint for the audit record, not evidence.
    pub parent_comm: Option<String>,
    /// The caller's cgroup, as a path below the hierarchy's root, for the audit record.
    pub cgroup: Option<String>,
}

/// Everything of a record that selectors depend on. Two connections with the same key have the same selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ProcessKey {
    tgid: u32,
    start: u64,
    cgroups: (u64, u64),
    netns: u64,
    exe: (u32, u64),
    ids: (u32, u32, u32, u32),
    missing: u32,
}

impl From<&CallerRecord> for ProcessKey {
    fn from(r: &CallerRecord) -> Self {
        Self {
            tgid: r.tgid,
            start: r.start_boottime,
            cgroups: (r.cgroup_id, r.socket_cgroup_id),
            netns: r.netns_cookie,
            exe: (r.exe_dev, r.exe_inode),
            ids: (r.uid, r.effective_uid, r.gid, r.effective_gid),
            missing: r.missing,
        }
    }
}

/// Turns records into selectors.
#[derive(Debug)]
pub struct Attestor {
    proc: Proc,
    cgroups: cgroup::Cgroups,
    accounts: accounts::Accounts,
    hashes: executable::Hashes,
    host_netns: Option<u64>,
    wants_hash: bool,
    systemd: bool,
    cache: HashMap<ProcessKey, (u64, Rc<Attested>)>,
    by_age: BTreeMap<u64, ProcessKey>,
    age: u64,
}

impl Attestor {
    /// An attestor for this machine. `host_netns` is the cookie of the host's network namespace.
    ///
    /// # Errors
    /// Where `/proc` is not readable or there is no cgroup2 mount.
    pub fn new(host_netns: Option<u64>) -> Result<Self, cgroup::NoCgroup2> {
        let proc = Proc::open().map_err(cgroup::NoCgroup2::Proc)?;
        Ok(Self {
            proc,
            cgroups: cgroup::Cgroups::find()?,
            accounts: accounts::Accounts::new(Path::new("/etc")),
            hashes: executable::Hashes::default(),
            host_netns,
            wants_hash: false,
            systemd: systemd::runs(),
            cache: HashMap::new(),
            by_age: BTreeMap::new(),
            age: 0,
        })
    }

    /// Whether `unix:sha256` is worth its cost: only where a policy names it. A change forgets what was attested.
    pub fn wants_hash(&mut self, wanted: bool) {
        if self.wants_hash != wanted {
            self.wants_hash = wanted;
            self.cache.clear();
            self.by_age.clear();
        }
    }

    /// Attests the process of this record. Known processes cost one `poll(2)` and no read of `/proc`.
    ///
    /// # Errors
    /// Where the process is not, or no longer, the one that connected.
    pub fn attest(&mut self, record: &CallerRecord) -> Result<Rc<Attested>, AttestError> {
        let key = ProcessKey::from(record);
        if let Some((_, known)) = self.cache.get(&key) {
            let known = Rc::clone(known);
            return if known.pidfd.exited().unwrap_or(true) {
                self.forget(&key);
                Err(AttestError::Gone(record.tgid))
            } else {
                Ok(known)
            };
        }
        let attested = Rc::new(self.look(record)?);
        self.remember(key, &attested);
        Ok(attested)
    }

    /// Whether the process still is what its record says and what was attested, executable and supplementary groups
    /// included. Reads `/proc`.
    ///
    /// # Errors
    /// What has changed.
    pub fn recheck(&mut self, record: &CallerRecord) -> Result<(), AttestError> {
        let attested = self.attest(record)?;
        process::unchanged(record, &attested.pidfd, &attested.dir, &mut self.cgroups)?;
        if executable::is_recorded(&attested.dir, record).map(|exe| exe.is_some()) != Ok(true) {
            return Err(AttestError::Changed(record.tgid, "executable"));
        }
        if unix::groups_of(&attested.dir.read("status")) != attested.groups {
            return Err(AttestError::Changed(record.tgid, "supplementary groups"));
        }
        Ok(())
    }

    /// Whether the process still lives in the cgroup and as the user that it connected as.
    ///
    /// # Errors
    /// What has changed.
    pub fn still(&mut self, record: &CallerRecord) -> Result<Rc<Attested>, AttestError> {
        let attested = self.attest(record)?;
        process::unchanged(record, &attested.pidfd, &attested.dir, &mut self.cgroups)?;
        Ok(attested)
    }

    /// Forgets processes that have exited.
    pub fn sweep(&mut self) {
        let gone: Vec<ProcessKey> = self
            .cache
            .iter()
            .filter(|(_, (_, known))| known.pidfd.exited().unwrap_or(true))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.forget(&key);
        }
    }

    /// How many processes are held now.
    pub fn held(&self) -> usize {
        self.cache.len()
    }

    /// The facts of a live process as `/proc` shows them now, in the form of a kernel record: for `explain --pid`.
    ///
    /// # Errors
    /// Where the process is not there or can't be read.
    pub fn record_of(&mut self, pid: u32) -> Result<CallerRecord, AttestError> {
        process::record_of(&self.proc, pid, &mut self.cgroups, self.host_netns)
    }

    fn forget(&mut self, key: &ProcessKey) {
        if let Some((age, _)) = self.cache.remove(key) {
            self.by_age.remove(&age);
        }
    }

    fn remember(&mut self, key: ProcessKey, attested: &Rc<Attested>) {
        if self.cache.len() >= CACHE_LIMIT {
            self.sweep();
        }
        while self.cache.len() >= CACHE_LIMIT {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                break;
            };
            self.cache.remove(&oldest);
        }
        self.age += 1;
        self.cache.insert(key, (self.age, Rc::clone(attested)));
        self.by_age.insert(self.age, key);
    }

    fn look(&mut self, record: &CallerRecord) -> Result<Attested, AttestError> {
        let (pidfd, dir) = process::pin(&self.proc, record, &mut self.cgroups)?;
        let mut selectors = Selectors::default();
        let status = dir.read("status");
        contain(&mut selectors, unix::KEYS, |out| {
            unix::attest(record, &status, &mut self.accounts, out);
        });
        let hashes = self.wants_hash.then_some(&mut self.hashes);
        contain(&mut selectors, executable::KEYS, |out| {
            executable::attest(record, &dir, hashes, out);
        });
        let own = self.cgroups.path(record.cgroup_id);
        let sockets = self.cgroups.path_of_socket(record);
        contain(&mut selectors, &[Key::CgroupPath], |out| {
            cgroup::attest(&own, &sockets, out);
        });
        let systemd = self.systemd;
        contain(&mut selectors, systemd::KEYS, |out| {
            systemd::attest(systemd, &own, &sockets, out);
        });
        self.namespaces(record, &dir, &mut selectors);
        let parent_comm = self.comm_of(record.parent_tgid);
        // Last: all of the above was read from a process that was alive throughout, so its pid was never free.
        if pidfd.exited().unwrap_or(true) {
            return Err(AttestError::Gone(record.tgid));
        }
        Ok(Attested {
            selectors,
            groups: unix::groups_of(&status),
            pidfd,
            dir,
            parent_comm,
            cgroup: own.ok().map(|path| path.to_string()),
        })
    }

    fn namespaces(&self, record: &CallerRecord, dir: &ProcessDir, out: &mut Selectors) {
        match dir.stat_link("ns/user") {
            Ok(stat) if stat.st_ino == INITIAL_USER_NAMESPACE => out.found(Key::UsernsInit, ""),
            Ok(_) => {}
            Err(errno) => out.unavailable(Key::UsernsInit, format!("ns/user: {errno}")),
        }
        match self.host_netns {
            Some(host) if host == record.netns_cookie => out.found(Key::NetHost, ""),
            Some(_) => {}
            None => out.unavailable(Key::NetHost, "the host's network namespace is not known"),
        }
    }

    fn comm_of(&self, tgid: u32) -> Option<String> {
        let comm = self.proc.process(tgid).ok()?.read("comm").ok()?;
        Some(String::from_utf8_lossy(&comm).trim_end().to_owned())
    }
}

/// Runs one attestor. What it found counts only as a whole: where it panics, each of its keys is unavailable.
fn contain(selectors: &mut Selectors, keys: &[Key], attestor: impl FnOnce(&mut Selectors)) {
    let mut found = Selectors::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| attestor(&mut found)));
    if outcome.is_err() {
        found = Selectors::default();
        for key in keys {
            found.unavailable(*key, "the attestor failed; this is a defect, see the log");
        }
    }
    selectors.0.extend(found.0);
}

#[cfg(test)]
mod tests;
