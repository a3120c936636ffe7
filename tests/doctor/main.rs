//! What `imds-guard doctor` says of a real machine: a world whose guard runs is covered, and each thing that is done to it
//! changes exactly the finding about it, and back.

mod layers;
mod machine;

use anyhow::{Context, Result};
use imds_guard_tests::{ADDRESSES, AgentProcess, World, binary};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every endpoint enforced: nothing is left that a guard could do and doesn't.
const POLICY: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"
[endpoints]
azure-imds = "enforce"
azure-wireserver = "enforce"
azure-hostga = "enforce"
aws-imds = "enforce"
aws-ecs = "enforce"
aws-eks = "enforce"
gcp-imds = "enforce"
gcp-mtls = "enforce"
[[workload]]
name = "web"
selectors = ["unix:uid:1001"]
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
"#;

/// What a machine may have of its own: these lie outside of any world. Each is still compared before and after.
const MACHINES_OWN: [&str; 8] = [
    "ptrace-scope",
    "vsock",
    "net-raw",
    "net-admin",
    "namespaces",
    "pass-through",
    "macvlan",
    "uplinks-moved",
];

/// What no world has: an uplink, and a configuration that shuts raw sockets out.
const NOT_IN_A_WORLD: [&str; 3] = [
    "frames: no uplink",
    "frames by netfilter: no uplink",
    "raw sockets: off",
];

/// Doctors look into every namespace of the machine: one world at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A world to be examined.
struct Clinic {
    world: World,
    /// The cgroup that the doctor is asked about: the world's.
    root: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// What was found: the state of each check, and what it is about.
type Findings = BTreeMap<String, (String, Vec<String>)>;

impl Clinic {
    /// The real services' addresses are on the loopback of a world, which is a finding: they are taken off.
    fn new(name: &str) -> Result<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let world = World::new(name)?;
        let root = world.cgroup().into();
        let clinic = Self {
            world,
            root,
            _alone: alone,
        };
        for address in ADDRESSES {
            clinic.shell(&format!("ip address del {address} dev lo"))?;
        }
        Ok(clinic)
    }

    fn start(&self) -> Result<AgentProcess> {
        self.world.agent().config(POLICY).start()
    }

    fn pins(&self) -> PathBuf {
        self.world.directory().join("bpf/imds-guard")
    }

    /// Runs the doctor in this world.
    fn doctor(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.world.show(&binary("imds-guard")?, "imds-guard")?);
        command.arg("doctor").args(arguments);
        command.arg("--cgroup-root").arg(&self.root);
        command.arg("--pin-dir").arg(self.pins());
        command
            .arg("--run-dir")
            .arg(self.world.directory().join("run"));
        command.env_clear();
        self.world
            .enter(move || command.output().context("the doctor"))
    }

    fn report(&self) -> Result<serde_json::Value> {
        let output = self.doctor(&["--json"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {said}"))
    }

    fn findings(&self) -> Result<Findings> {
        let report = self.report()?;
        let findings = report["findings"].as_array().context("no findings")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let one = |finding: &serde_json::Value| {
            let subjects = finding["subjects"].as_array().into_iter().flatten();
            (
                text(&finding["check"]),
                (text(&finding["state"]), subjects.map(text).collect()),
            )
        };
        let mut found: Findings = findings.iter().map(one).collect();
        if let Some((state, subjects)) = found.get_mut("layers") {
            subjects.retain(|s| !NOT_IN_A_WORLD.iter().any(|not| s.starts_with(not)));
            if state == "weak" && subjects.is_empty() {
                "ok".clone_into(state);
            }
        }
        Ok(found)
    }

    /// The exit code, with what is the machine's own accepted.
    fn exit_code(&self) -> Result<Option<i32>> {
        let whole = self.findings()?.get("layers").is_some_and(|l| l.0 == "ok");
        let accepted: Vec<&str> = MACHINES_OWN
            .into_iter()
            .chain(whole.then_some("layers"))
            .flat_map(|own| ["--accept", own])
            .collect();
        Ok(self.doctor(&accepted)?.status.code())
    }

    /// Runs a line of shell in the world's namespaces.
    fn shell(&self, line: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-ec", line]);
        let output = self.world.enter(move || Ok(command.output()?))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{line}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `then` changes exactly the finding of `check`, to `state`, about something that contains `about`; `undo` changes it
    /// back.
    #[track_caller]
    fn changes<T>(
        &self,
        check: &str,
        state: &str,
        about: &str,
        then: impl FnOnce() -> Result<T>,
        undo: impl FnOnce(T) -> Result<()>,
    ) {
        let before = self.findings().expect("the findings before");
        let made = then().expect("the change");
        let during = self.findings().expect("the findings");
        let changed: Vec<_> = during
            .iter()
            .filter(|(check, found)| before.get(*check) != Some(found))
            .collect();
        let names: Vec<_> = changed.iter().map(|(check, _)| check.as_str()).collect();
        assert_eq!(names, [check], "{changed:?}");
        let (found, subjects) = &during[check];
        // A machine may hide some of its processes for good: then this can't be told from worse.
        let own = MACHINES_OWN.contains(&check) && before[check].0 == "unknown";
        assert!(*found == state || own, "{found} {subjects:?}");
        assert!(subjects.iter().any(|s| s.contains(about)), "{subjects:?}");
        undo(made).expect("the way back");
        let after = self.findings().expect("the findings after");
        assert_eq!(after, before, "and back");
    }
}
