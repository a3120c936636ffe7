//! A whole machine that was made for one run of tests: no network card, a root cgroup that nobody else lives in, nothing to be
//! undone afterwards. The real services stand a cable away, as in [`crate::World::with_cloud`].

use crate::netns::ip;
use crate::{AuditTail, FakeAzure, Space};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What `xtask` writes on the command line of every kernel that it boots.
const DISPOSABLE: &str = "imds_guard.disposable";

const PATIENCE: &str = "[Service]\nTimeoutStartSec=120\nWatchdogSec=120\n";

/// The machine that this runs on, with a cloud beside it.
#[derive(Debug)]
pub struct Machine {
    cloud: Space,
}

impl Machine {
    /// Its address, as the real service sees it.
    pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));

    /// What `xtask` gave it, read-only: this build's tests and programs, and the packages `imds-guard-1.deb` and `-2.deb`, two
    /// versions of which the second is higher.
    pub const PAYLOAD: &str = "/run/payload";

    /// Take it over, and put the cloud beside it. Once per process.
    ///
    /// # Errors
    /// Where the machine wasn't made for this, or anything could lead out of it.
    pub fn take() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline")?;
        ensure!(
            line.split_whitespace().any(|word| word == DISPOSABLE),
            "these tests take over a whole machine, and this one wasn't made for them: cargo xtask test systems"
        );
        refuse_hardware(Path::new("/sys/class/net"))?;
        // Left by a test that was killed; its namespace went with it.
        let _none = ip(&["link", "delete", "tw-up"]);
        Ok(Self {
            cloud: Space::cloud()?,
        })
    }

    /// The server where Azure's stands.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn azure(&self) -> Result<FakeAzure> {
        FakeAzure::listen(|| self.cloud.enter(crate::azure::bind))
    }

    /// Let the agent's units take as long to start, and between two signs of life, as an emulated processor makes them; it
    /// says nothing about what they may do. For units that are (re)started from here on.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn patient_units(&self) -> Result<()> {
        for unit in ["imds-guard", "imds-guard-proxy"] {
            let drop_ins = Path::new("/etc/systemd/system").join(format!("{unit}.service.d"));
            fs::create_dir_all(&drop_ins)?;
            fs::write(drop_ins.join("patience.conf"), PATIENCE)?;
        }
        Ok(())
    }

    /// One more cable to the cloud: `near` with `ADDRESS.1` here, `far` with `ADDRESS.2` there.
    ///
    /// # Errors
    /// When it can't be laid.
    pub fn second_cable(&mut self, near: &str, far: &str, address: [u8; 3]) -> Result<()> {
        self.cloud.cable(near, far, address)
    }

    /// The records that an agent in this machine appends to `file`.
    #[must_use]
    pub fn audit(&self, file: &Path) -> AuditTail {
        AuditTail::new(file)
    }
}

/// An interface with hardware has a `device`.
fn refuse_hardware(interfaces: &Path) -> Result<()> {
    for interface in fs::read_dir(interfaces).context("/sys/class/net")? {
        let interface = interface?.path();
        ensure!(
            !interface.join("device").exists(),
            "{} has hardware and might lead out of this machine: refusing to go on",
            interface.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_not_made_for_it_is_not_taken_over() {
        let refused = Machine::take().unwrap_err().to_string();
        assert!(refused.contains("wasn't made for them"), "{refused}");
    }

    #[test]
    fn an_interface_with_hardware_is_refused() {
        let interfaces = tempfile::tempdir().unwrap();
        fs::create_dir_all(interfaces.path().join("lo")).unwrap();
        refuse_hardware(interfaces.path()).unwrap();
        fs::create_dir_all(interfaces.path().join("eth0/device")).unwrap();
        assert!(refuse_hardware(interfaces.path()).is_err());
    }
}
