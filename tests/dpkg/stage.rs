//! Where a package lives its life here: the machine that the test runs in, cleared before and after.

use super::machine::Machine;
use imds_guard_tests::{FakeAzure, Machine as Whole, require};

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

    /// As it was made. Where nothing is installed, dpkg says so and fails.
    fn clear(&self) {
        let _nothing_is_installed = self.machine.run(&["dpkg", "--purge", "imds-guard"]);
        let _nobody_asks = self.machine.run(&["systemctl", "stop", "asking.service"]);
        let _nobody_squats = self.machine.run(&["systemctl", "stop", "squatter.service"]);
        let _nothing_was_asked = self.machine.run(&["rm", "-f", "/srv/codes"]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
    }
}
