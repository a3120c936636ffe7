//! imds-guard, installed in the machine by dpkg, run by its systemd, guarding all of it.

use anyhow::{Context, Result, ensure};
use imds_guard_tests::{AuditTail, Machine, patience};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const POLICY: &str = "/etc/imds-guard/imds-guard.toml";
const LOG: &str = "/run/imds-guard.log";
const AUDIT: &str = "/var/log/imds-guard/audit.jsonl";
const UNITS: [&str; 2] = ["imds-guard.service", "imds-guard-proxy.service"];
/// Where they log.
const DROP_IN: &str = "[Service]\nStandardOutput=append:/run/imds-guard.log\nStandardError=append:/run/imds-guard.log\n";

/// A workload that may have Key Vault's token of the real service: its selectors.
pub(crate) type Grant<'a> = &'a [&'a str];

/// Azure's endpoint in `mode`, and who may have Key Vault's token of the real service.
pub(crate) fn policy(mode: &str, grants: &[Grant<'_>]) -> String {
    let mut text = format!(
        r#"
[endpoints]
azure-imds = "{mode}"
[host]
trust_domain = "example.org"
name = "web-07"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"
"#
    );
    for (number, selectors) in grants.iter().enumerate() {
        text.push_str(&format!(
            r#"
[[workload]]
name = "granted-{number}"
selectors = {selectors:?}
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "real"
"#
        ));
    }
    text
}

/// Running; dropped, it is stopped and torn down.
#[derive(Debug)]
pub(crate) struct Installed {
    epoch: u32,
    pub(crate) audit: AuditTail,
}

impl Installed {
    /// Running with `policy`: by the first test that asks for it, installed; by later ones, which find it stopped and torn
    /// down, started.
    pub(crate) fn new(machine: &Machine, policy: &str) -> Result<Self> {
        machine.patient_units()?;
        tell_units_where_to_log()?;
        let _none_yet = fs::remove_file(LOG);
        let _none_either = fs::remove_file(AUDIT);
        let mut installed = Self {
            epoch: 1,
            audit: machine.audit(Path::new(AUDIT)),
        };
        if Path::new("/usr/bin/imds-guard").exists() {
            stop_and_tear_down();
            fs::write(POLICY, policy)?;
            run("systemctl", &["daemon-reload"])?;
            let started = run("systemctl", &["start", UNITS[0], UNITS[1]]);
            started.with_context(|| installed.said())?;
        } else {
            // It comes with a configuration of its own, and runs by it.
            let package = format!("{}/imds-guard-1.deb", Machine::PAYLOAD);
            run("dpkg", &["--install", &package]).with_context(|| installed.said())?;
            installed.change(policy)?;
        }
        Ok(installed)
    }

    /// Another policy, by a reload.
    pub(crate) fn change(&mut self, policy: &str) -> Result<()> {
        fs::write(POLICY, policy)?;
        run("systemctl", &["reload", UNITS[0]])?;
        self.epoch += 1;
        let told = format!("serving by a new policy epoch={}\n", self.epoch);
        let deadline = Instant::now() + patience(Duration::from_secs(10));
        while !self.log().contains(&told) {
            ensure!(Instant::now() < deadline, "no {told}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What guard and proxy said.
    fn log(&self) -> String {
        fs::read_to_string(LOG).unwrap_or_default()
    }

    /// The same, and what was recorded: for the message of a test that fails.
    pub(crate) fn said(&self) -> String {
        let records = fs::read_to_string(AUDIT).unwrap_or_default();
        format!("the agent said:\n{}{records}", self.log())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        stop_and_tear_down();
    }
}

/// Where that doesn't work, the next test will say so.
fn stop_and_tear_down() {
    let _stopped_already = run("systemctl", &["stop", UNITS[1], UNITS[0]]);
    let _nothing_there = run("imds-guard", &["teardown"]);
}

fn tell_units_where_to_log() -> Result<()> {
    for unit in UNITS {
        let drop_ins = Path::new("/etc/systemd/system").join(format!("{unit}.d"));
        fs::create_dir_all(&drop_ins)?;
        fs::write(drop_ins.join("log.conf"), DROP_IN)?;
    }
    Ok(())
}

/// Run a program to its end; its output. Its failure is an error with all that it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.to_owned())?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{program} {}: {}\n{out}{err}",
        arguments.join(" "),
        output.status
    );
    Ok(out.trim().to_owned())
}
