//! Who reaches one endpoint while no guard lives: executables that nobody but root can write, each in its service. Looked for
//! while the guard lives, for the kernel knows them by numbers: a service that starts anew has another cgroup, and a file that is
//! replaced another inode. One that can't be told is told of, and has no lifeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, MapError};
use imds_guard_ebpf::Lifeline;

use super::environment::cgroup_id;
use crate::attest::executable::kernel_identity;
use crate::config::custody;

/// Where the system's services have their cgroups.
const SERVICES: &str = "system.slice";

/// One that is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As `/proc/PID/exe` shows it.
    pub executable: PathBuf,
    /// The service that it runs in.
    pub unit: String,
    /// Ids of the endpoint's addresses.
    pub endpoints: Vec<u32>,
}

/// The kernel's table, and what it is to be.
pub(super) struct Lifelines {
    table: HashMap<MapData, Lifeline, u32>,
    services: PathBuf,
    wanted: Vec<Wanted>,
    /// What is wrong with which, as it was told last.
    told: BTreeMap<PathBuf, String>,
}

impl Lifelines {
    pub(super) fn new(table: HashMap<MapData, Lifeline, u32>, root: &Path) -> Self {
        Self {
            table,
            services: root.join(SERVICES),
            wanted: vec![],
            told: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, wanted: Vec<Wanted>) {
        self.wanted = wanted;
        self.refresh();
    }

    /// Makes the kernel's table what is there now.
    pub(super) fn refresh(&mut self) {
        let mut all = BTreeSet::new();
        for wanted in std::mem::take(&mut self.wanted) {
            let why = match self.entries(&wanted) {
                Ok(entries) => {
                    all.extend(entries);
                    None
                }
                Err(why) => Some(why),
            };
            self.tell(&wanted, why);
            self.wanted.push(wanted);
        }
        if let Err(error) = self.write(&all) {
            tracing::error!(%error, "the table of lifelines can't be written");
        }
    }

    fn entries(&self, wanted: &Wanted) -> Result<Vec<Lifeline>, String> {
        let file = custody::file(&wanted.executable).map_err(|error| error.to_string())?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
        let (exe_dev, exe_inode) = kernel_identity(&file, &mounts)
            .ok_or("the kernel doesn't tell which file it is (before Linux 5.14)")?;
        let file = File::from(file);
        let mut begins = [0; 2];
        if file.read_at(&mut begins, 0).is_ok() && begins == *b"#!" {
            return Err("it is a script, which the kernel knows as its interpreter: name that, as `readlink /proc/PID/exe` shows it".into());
        }
        // A service that doesn't run has no lifeline and wants none.
        let Ok(cgroup) = cgroup_id(&self.services.join(&wanted.unit)) else {
            return Ok(vec![]);
        };
        let one = |&endpoint_id: &u32| Lifeline {
            cgroup,
            exe_inode,
            exe_dev,
            endpoint_id,
        };
        Ok(wanted.endpoints.iter().map(one).collect())
    }

    fn tell(&mut self, wanted: &Wanted, why: Option<String>) {
        let before = self.told.get(&wanted.executable);
        if before == why.as_ref() {
            return;
        }
        let executable = wanted.executable.clone();
        let shown = executable.display();
        match why {
            Some(why) => {
                tracing::error!(executable = %shown, unit = wanted.unit, "has no lifeline: {why}");
                self.told.insert(executable, why);
            }
            None => {
                tracing::info!(executable = %shown, unit = wanted.unit, "has its lifeline again");
                self.told.remove(&executable);
            }
        }
    }

    fn write(&mut self, wanted: &BTreeSet<Lifeline>) -> Result<(), MapError> {
        let before: BTreeSet<Lifeline> = self.table.keys().collect::<Result<_, _>>()?;
        for stale in before.difference(wanted) {
            self.table.remove(stale)?;
        }
        for new in wanted.difference(&before) {
            self.table.insert(new, 1, 0)?;
        }
        Ok(())
    }
}
