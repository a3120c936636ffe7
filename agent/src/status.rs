//! What `imds-guard status` tells: does the guard run, by which policy, what the kernel guards, and what came of it lately. Reads alone.
//!
//! [`Note`] is the guard's own word, left in its run directory; it is believed only while the process that wrote it holds the lock
//! there. What the kernel guards is read from the kernel, whatever the note says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::doctor;
use crate::intercept::bypasses::Live;
use crate::intercept::{Bypasses, Mode};
use crate::sys::clock;

mod recent;

pub use recent::Recent;

/// What the guard leaves for `status`, at its start and after each reload. Nothing rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Who wrote it.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it became ready, RFC 3339.
    pub since: String,
    /// What is in force.
    pub policy: InForce,
    /// Where audit records go; `None`: standard output.
    pub audit: Option<PathBuf>,
    /// Names of endpoints by their addresses.
    pub names: BTreeMap<SocketAddr, Vec<String>>,
    /// Why the last reload changed nothing, in a line; `None`: it was taken.
    pub refused: Option<String>,
    /// The policy that has to be confirmed, or was not.
    pub trial: Option<Trial>,
    /// Connections to a real service by a lifeline, of which the kernel told this guard: while none lived before it.
    pub lifelines_used: u64,
}

/// A policy that has to be confirmed, or was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its digest.
    pub digest: String,
    /// Digest of the policy that comes back, or has.
    pub earlier: String,
    /// Until when it can be confirmed, RFC 3339; `None`: it went back.
    pub until: Option<String>,
    /// When it went back, RFC 3339.
    pub went_back: Option<String>,
}

/// A policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The main file.
    pub file: PathBuf,
    /// Grows by one with each reload.
    pub epoch: u64,
    /// Short hash of all files.
    pub digest: String,
    /// How many workloads it knows.
    pub workloads: usize,
    /// How many rules it has.
    pub rules: usize,
}

impl Note {
    /// Name of the file in the run directory.
    pub const FILE: &'static str = "status.json";

    /// Leaves it in the run directory: whole, or not at all.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(crate) fn leave(&self, run_dir: &Path) -> std::io::Result<()> {
        let aside = run_dir.join(format!("{}.new", Self::FILE));
        std::fs::write(&aside, serde_json::to_vec(self)?)?;
        std::fs::rename(aside, run_dir.join(Self::FILE))
    }

    /// What that process left there.
    fn of(run_dir: &Path, pid: u32) -> Option<Self> {
        let text = std::fs::read(run_dir.join(Self::FILE)).ok()?;
        let note: Self = serde_json::from_slice(&text).ok()?;
        (note.pid == pid).then_some(note)
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether a guard runs; `None`: it couldn't be looked at.
    pub running: Option<bool>,
    /// Its process.
    pub pid: Option<u32>,
    /// What it says of itself.
    pub guard: Option<Note>,
    /// What the kernel guards, whoever runs; `None`: it couldn't be looked at.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Who passes for a while as if nothing were guarded, whoever runs; `None`: it couldn't be looked at.
    pub bypasses: Option<Vec<Live>>,
    /// What the end of the audit file says.
    pub recent: Option<Recent>,
    /// What couldn't be looked at, and why.
    pub unknown: Vec<String>,
}

/// A guarded address.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Its mode, as the kernel has it.
    #[serde(serialize_with = "in_words")]
    pub mode: Mode,
    /// Its names, where a guard tells them.
    pub names: Vec<String>,
}

fn in_words<S: serde::Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(doctor::word(*mode))
}

/// Looks, at the places that `run` was given.
#[must_use]
pub fn look(run_dir: &Path, pin_dir: &Path) -> Report {
    let mut unknown = vec![];
    let mut or_unknown = |why: String| unknown.push(why);
    let held = doctor::guard(run_dir).map_err(&mut or_unknown).ok();
    let endpoints = doctor::endpoints(pin_dir).map_err(&mut or_unknown).ok();
    let bypasses = bypasses(pin_dir).map_err(&mut or_unknown).ok();
    let pid = held.flatten();
    let guard = pid.and_then(|pid| Note::of(run_dir, pid));
    let audit = guard.as_ref().and_then(|note| note.audit.as_deref());
    let recent = audit.map(recent::read).transpose();
    Report {
        running: held.map(|pid| pid.is_some()),
        pid,
        endpoints: endpoints.map(|all| all.into_iter().map(|e| named(e, guard.as_ref())).collect()),
        bypasses,
        recent: recent.unwrap_or_else(|why| {
            unknown.push(why);
            None
        }),
        guard,
        unknown,
    }
}

/// The bypasses whose time isn't over.
pub(crate) fn bypasses(pin_dir: &Path) -> Result<Vec<Live>, String> {
    let table = Bypasses::open(pin_dir).map_err(|error| error.to_string())?;
    let all = table
        .map(|table| table.all(clock::since_boot()))
        .transpose();
    let mut all = all.map_err(|error| error.to_string())?.unwrap_or_default();
    all.retain(|live| live.left_s > 0);
    Ok(all)
}

fn named((address, mode): (SocketAddr, Mode), guard: Option<&Note>) -> Endpoint {
    let names = guard.and_then(|note| note.names.get(&address));
    Endpoint {
        address,
        mode,
        names: names.cloned().unwrap_or_default(),
    }
}

impl Report {
    /// The strictest mode that the kernel has for any address; `None`: it guards none, or that isn't known.
    #[must_use]
    pub fn strictest(&self) -> Option<Mode> {
        let endpoints = self.endpoints.iter().flatten();
        endpoints.map(|e| e.mode).max_by_key(|mode| *mode as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pid: u32) -> Note {
        Note {
            pid,
            version: "0.1.0".into(),
            since: "2026-11-26T19:53:39Z".into(),
            policy: InForce {
                file: "/etc/imds-guard/imds-guard.toml".into(),
                epoch: 3,
                digest: "1a2b".into(),
                workloads: 1,
                rules: 2,
            },
            audit: None,
            names: BTreeMap::new(),
            refused: None,
            trial: None,
            lifelines_used: 0,
        }
    }

    #[test]
    fn a_note_is_believed_of_the_process_that_wrote_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        note(7).leave(folder.path()).unwrap();
        assert_eq!(Note::of(folder.path(), 7), Some(note(7)));
        assert_eq!(Note::of(folder.path(), 8), None);
        std::fs::write(folder.path().join(Note::FILE), "{\"pid\":7").unwrap();
        assert_eq!(Note::of(folder.path(), 7), None, "cut off");
    }

    #[test]
    fn where_nothing_is_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        let report = look(&folder.path().join("run"), &folder.path().join("pins"));
        assert_eq!(report.running, Some(false));
        assert_eq!(report.endpoints, Some(vec![]));
        assert_eq!(report.strictest(), None);
        assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    }
}
