//! Where a package lives its life here: the machine that the test runs in, cleared before and after.

use super::machine::Machine;
use imds_guard_tests::{FakeAzure, Machine as Whole, require};
use std::path::Path;

/// Where the packages lie: `imds-guard-REVISION.deb`.
pub(crate) const PACKAGES: &str = Whole::PAYLOAD;

/// The machine with nothing installed, and what stands for the real service.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) azure: FakeAzure,
    _whole: Whole,
}

impl Stage {
    pub(crate) fn bare(_name: &str) -> Self {
        require!(Root, Cgroup2, Bpf);
        let whole = Whole::take().expect("a machine made for this");
        whole.patient_units().expect("drop-ins");
        let stage = Self {
            machine: Machine {
                unshare: None,
                init: 1,
                console: "/dev/null".into(),
            },
            azure: whole.azure().expect("a service"),
            _whole: whole,
        };
        stage.clear();
        stage
    }

    /// As it was made. Each command takes a second there, so nothing is undone that isn't there.
    fn clear(&self) {
        for unit in ["asking.service", "squatter.service"] {
            if Path::new("/sys/fs/cgroup/system.slice").join(unit).exists() {
                let _ended_meanwhile = self.machine.run(&["systemctl", "stop", unit]);
            }
        }
        let _nobody_asked = std::fs::remove_file("/srv/codes");
        if Path::new("/var/lib/dpkg/info/imds-guard.list").exists() {
            let purged = self.machine.must(&["dpkg", "--purge", "imds-guard"]);
            assert!(purged.is_ok() || std::thread::panicking(), "{purged:?}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
    }
}
