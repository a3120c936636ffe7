//! Steps of a package's life, each with what has to hold: by dpkg, with callers beside it.

use super::machine::{Machine, text};
use super::stage::{PACKAGES, Stage};
use anyhow::Result;
use imds_guard_tests::{UPSTREAM_TOKEN, patience};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Output;
use std::time::{Duration, Instant};

pub(crate) const POLICY: &str = include_str!("../systemd/policy.toml");
const VAULT: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
pub(crate) const GUARD: &str = "imds-guard.service";
pub(crate) const PROXY: &str = "imds-guard-proxy.service";

/// `dpkg --install`, which has to succeed: what it and the package's scripts said.
pub(crate) fn install(machine: &Machine, revision: u32) -> String {
    dpkg(
        machine,
        &[
            "--install",
            &format!("{PACKAGES}/imds-guard-{revision}.deb"),
        ],
    )
}

pub(crate) fn dpkg(machine: &Machine, arguments: &[&str]) -> String {
    let mut command = vec!["dpkg"];
    command.extend(arguments);
    let output = machine.run(&command).expect("dpkg");
    let said = both(&output);
    assert!(output.status.success(), "dpkg {arguments:?}: {said}");
    said
}

fn both(output: &Output) -> String {
    text(output) + &String::from_utf8_lossy(&output.stderr)
}

/// The policy of `systemd/policy.toml`, which enforces, put in force.
pub(crate) fn enforce(machine: &Machine) {
    machine.configure(POLICY).expect("written");
    machine
        .must(&["systemctl", "reload", GUARD])
        .expect("accepted");
    machine
        .wait_journal(GUARD, "policy reloaded")
        .expect("taken");
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while code(machine, "web") != "403" {
        assert!(
            Instant::now() < deadline,
            "{}",
            machine.journal("imds-guard*")
        );
    }
    assert_eq!(code(machine, "billing"), "200");
}

/// What a unit gets at the metadata address: the status code, `000` where it can't connect.
pub(crate) fn code(machine: &Machine, unit: &str) -> String {
    machine.ask(unit, VAULT).expect("asked").0
}

pub(crate) fn assert_open(machine: &Machine) {
    let (code, body) = machine.ask("web", VAULT).expect("asked");
    assert_eq!(code, "200", "{body}");
    assert!(
        body.contains(UPSTREAM_TOKEN),
        "not the real service's: {body}"
    );
}

fn status(machine: &Machine) -> Value {
    let output = machine
        .run(&["imds-guard", "status", "--json"])
        .expect("status");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// All files that a package could leave, but for dpkg's own books and for logs.
pub(crate) fn files(machine: &Machine) -> BTreeSet<String> {
    let find = "find /etc /usr /var /run/imds-guard /sys/fs/bpf -xdev 2>/dev/null | \
        grep -Ev '^/var/(lib/dpkg|log/(journal|dpkg.log)|cache|tmp|backups)|^/var/lib/systemd/(timers|random)|^/etc/(.pwd.lock|[a-z]*-)$|^/sys/fs/bpf$|^/etc/machine-id'";
    let found = machine.must(&["sh", "-c", find]).expect("find");
    found.lines().map(str::to_owned).collect()
}

pub(crate) fn assert_nothing_is_left(machine: &Machine, before: &BTreeSet<String>) {
    let after = files(machine);
    let left: Vec<_> = after.difference(before).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let users = machine
        .must(&["cat", "/etc/passwd", "/etc/group"])
        .expect("users");
    assert!(!users.contains("imds-guard"), "{users}");
    let tables = machine.must(&["nft", "list", "tables"]).expect("nft");
    assert!(!tables.contains("imds_guard"), "{tables}");
    assert_open(machine);
}

/// What `status` says, once the guard has written what it observed.
fn observed(machine: &Machine) -> Value {
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    loop {
        let told = status(machine);
        if told["recent"]["observed"].as_u64() > Some(0) {
            return told;
        }
        assert!(Instant::now() < deadline, "{told}");
    }
}

/// By policy, or for want of a listener: never answered by anybody else.
fn refused_all_the_time(codes: &[String]) {
    let of = |word: &str| codes.iter().filter(|code| *code == word).count();
    let (denied, unconnected, closed) = (of("403"), of("000"), of("503"));
    assert_eq!(denied + unconnected + closed, codes.len(), "{codes:?}");
    assert!(denied > 20, "{codes:?}");
    let asked = codes.len();
    let _nobody_listens = writeln!(
        std::io::stderr(),
        "{asked} asked during upgrade and downgrade, {unconnected} of them could not connect"
    );
}

/// A unit without a grant that asks all the time.
struct Asking<'m>(&'m Machine);

fn asking(machine: &Machine) -> Result<Asking<'_>> {
    let each = "curl -s -o /dev/null -m 5 -H Metadata:true -w '%{http_code}\\n' \"$0\"";
    // Where there is one processor, and a slow one, it must leave something of it to dpkg.
    let pause = patience(Duration::from_millis(50)).as_secs_f32();
    let script = format!("while :; do {each} >>/srv/codes; sleep {pause}; done");
    let url = format!("http://169.254.169.254{VAULT}");
    let command = [
        "systemd-run",
        "--quiet",
        "--unit=asking",
        "sh",
        "-c",
        &script,
        &url,
    ];
    machine.must(&command)?;
    Ok(Asking(machine))
}

impl Asking<'_> {
    /// All status codes that it got.
    fn end(self) -> Result<Vec<String>> {
        // Its end is a kill, which systemd calls a failure.
        self.0.run(&["systemctl", "stop", "asking.service"])?;
        let codes = self.0.must(&["cat", "/srv/codes"])?;
        Ok(codes.lines().map(str::to_owned).collect())
    }
}

/// A first installation, where nothing is installed: it observes, says so, and changes nothing for who asks.
pub(crate) fn observes(stage: &Stage) {
    let Stage { machine, azure, .. } = stage;
    let asked_before = azure.received().len();
    let said = install(machine, 1);
    assert!(
        said.contains("observes") && said.contains("imds-guard status"),
        "{said}"
    );
    for unit in [GUARD, PROXY] {
        assert_eq!(
            machine.property(unit, "ActiveState").expect("a property"),
            "active"
        );
        assert_eq!(
            machine.property(unit, "UnitFileState").expect("a property"),
            "enabled"
        );
    }
    let early = "imds-guard-early.service";
    let state = machine
        .property(early, "UnitFileState")
        .expect("a property");
    assert_eq!(state, "enabled", "{early}");
    assert_open(machine);
    assert_eq!(
        azure.received().len(),
        asked_before + 1,
        "it went to the real service: {:?}",
        azure.received()
    );

    let told = observed(machine);
    let endpoints = told["endpoints"].as_array().expect("a list");
    assert!(
        endpoints.len() >= 5 && endpoints.iter().all(|e| e["mode"] == "observe"),
        "{told}"
    );
    let line = machine.property(GUARD, "StatusText").expect("a property");
    assert!(line.contains("169.254.169.254:80 observe"), "{line}");
    let arguments = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "imds-guard",
        "status",
    ];
    let powerless = machine.run(&arguments).expect("run");
    assert_eq!(powerless.status.code(), Some(5), "{}", both(&powerless));
    machine
        .must(&["imds-guard", "check", "/etc/imds-guard/imds-guard.toml"])
        .expect("accepted");
}

/// The first version runs and enforces; the second is installed over it, then the first again, and who has no grant asks all the
/// time.
pub(crate) fn upgrades_and_downgrades(stage: &Stage) {
    let Stage { machine, azure, .. } = stage;
    let pin = || {
        machine.must(&[
            "sh",
            "-c",
            "stat -c %i /sys/fs/bpf/imds-guard/layout-*/links/connect4",
        ])
    };
    let (guard, pinned) = (
        machine.main_pid(GUARD).expect("it runs"),
        pin().expect("pinned"),
    );
    let passed_before = azure.received().len();
    let asking = asking(machine).expect("asking");

    let said = install(machine, 2);
    assert!(said.contains("-2) over"), "{said}");
    let second = machine.wait_active(GUARD, &guard).expect("it comes back");
    machine.wait_active(PROXY, "").expect("it comes back");
    assert_eq!(
        code(machine, "billing"),
        "200",
        "{}",
        machine.journal("imds-guard*")
    );
    assert_eq!(code(machine, "web"), "403");

    let said = install(machine, 1);
    assert!(said.contains("downgrading"), "{said}");
    machine.wait_active(GUARD, &second).expect("it comes back");
    machine.wait_active(PROXY, "").expect("it comes back");
    assert_eq!(
        code(machine, "billing"),
        "200",
        "{}",
        machine.journal("imds-guard*")
    );

    refused_all_the_time(&asking.end().expect("codes"));
    assert_eq!(
        azure.received().len(),
        passed_before,
        "something got through: {:?}",
        azure.received()
    );
    assert_eq!(
        pin().expect("pinned"),
        pinned,
        "the link was swapped in place, never removed"
    );
}
