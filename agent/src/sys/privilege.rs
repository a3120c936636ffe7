//! Giving up power, for good: what the proxy does before it reads its first byte. One way only; there is nothing here
//! that gains anything.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, chdir, chroot, getppid, setgroups};

/// A step that failed. The process must not go on: it may hold half its power.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// One system call.
    #[error("{0}: {1}")]
    Call(&'static str, #[source] Errno),
    /// A set of capabilities that would not clear.
    #[error("clear {0:?} capabilities: {1}")]
    Capabilities(caps::CapSet, #[source] caps::errors::CapsError),
    /// The parent died while we were starting: nobody would end us.
    #[error("the guard is gone")]
    Orphan,
    /// Root would come back by exec or setuid(2).
    #[error("a proxy can't run as root: give it a user of its own")]
    Root,
}

/// Becomes `uid`/`gid` with no groups, no capability in any set, no new privileges, not dumpable, no core files; sees
/// only `root` (an empty directory) where one is given.
///
/// # DropErrors
/// The step that failed.
pub fn drop_to(uid: Uid, gid: Gid, root: Option<&Path>) -> Result<(), DropError> {
    if uid.is_root() || gid.as_raw() == 0 {
        return Err(DropError::Root);
    }
    if let Some(root) = root {
        chroot(root).map_err(|e| DropError::Call("chroot", e))?;
        chdir("/").map_err(|e| DropError::Call("chdir", e))?;
    }
    // The bounding set first: clearing it needs CAP_SETPCAP, which setuid takes away.
    clear(caps::CapSet::Bounding)?;
    setgroups(&[]).map_err(|e| DropError::Call("setgroups", e))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| DropError::Call("setresgid", e))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| DropError::Call("setresuid", e))?;
    seal()
}

/// The part that needs no privilege, for a proxy that its service manager has already started as its own user.
///
/// # DropErrors
/// The step that failed; [`DropError::Root`] where it was started as root.
pub fn seal() -> Result<(), DropError> {
    if Uid::effective().is_root() {
        return Err(DropError::Root);
    }
    for set in [
        caps::CapSet::Ambient,
        caps::CapSet::Inheritable,
        caps::CapSet::Effective,
        caps::CapSet::Permitted,
    ] {
        clear(set)?;
    }
    prctl::set_no_new_privs().map_err(|e| DropError::Call("no_new_privs", e))?;
    no_core()
}

/// No core files, no ptrace by the same user: memory holds secrets. The guard does this, too.
///
/// # DropErrors
/// The step that failed.
pub fn no_core() -> Result<(), DropError> {
    prctl::set_dumpable(false).map_err(|e| DropError::Call("dumpable", e))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| DropError::Call("rlimit core", e))
}

/// Asks to be killed when `parent` dies. To be called after the change of user, which clears the setting.
///
/// # DropErrors
/// [`DropError::Orphan`] when the parent has died already.
pub fn die_with(parent: Pid) -> Result<(), DropError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| DropError::Call("pdeathsig", e))?;
    if getppid() == parent {
        Ok(())
    } else {
        Err(DropError::Orphan)
    }
}

fn clear(set: caps::CapSet) -> Result<(), DropError> {
    caps::clear(None, set).map_err(|e| DropError::Capabilities(set, e))
}
