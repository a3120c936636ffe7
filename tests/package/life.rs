//! A package's life: install, run, upgrade, downgrade, remove, purge, by dpkg, with callers beside it.

use super::machine::{Machine, text};
use super::stage::{PACKAGES, Stage};
use anyhow::Result;
use imds_guard_tests::{UPSTREAM_TOKEN, patience};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Output;
use std::time::{Duration, Instant};

const POLICY: &str = include_str!("../systemd/policy.toml");
const VAULT: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
const GUARD: &str = "imds-guard.service";
const PROXY: &str = "imds-guard-proxy.service";

/// `dpkg --install`, which has to succeed: what it and the package's scripts said.
fn install(machine: &Machine, revision: u32) -> String {
    dpkg(
        machine,
        &[
            "--install",
            &format!("{PACKAGES}/imds-guard-{revision}.deb"),
        ],
    )
}

fn dpkg(machine: &Machine, arguments: &[&str]) -> String {
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
fn enforce(machine: &Machine) {
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
fn code(machine: &Machine, unit: &str) -> String {
    machine.ask(unit, VAULT).expect("asked").0
}

fn assert_open(machine: &Machine) {
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
fn files(machine: &Machine) -> BTreeSet<String> {
    let find = "find /etc /usr /var /run/imds-guard /sys/fs/bpf -xdev 2>/dev/null | \
        grep -Ev '^/var/(lib/dpkg|log/(journal|dpkg.log)|cache|tmp|backups)|^/var/lib/systemd/(timers|random)|^/etc/(.pwd.lock|[a-z]*-)$|^/sys/fs/bpf$|^/etc/machine-id'";
    let found = machine.must(&["sh", "-c", find]).expect("find");
    found.lines().map(str::to_owned).collect()
}

fn assert_nothing_is_left(machine: &Machine, before: &BTreeSet<String>) {
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

#[test]
#[ignore = "package: cargo xtask test package"]
fn a_fresh_install_observes_and_changes_nothing_and_goes_without_a_trace() {
    let stage = Stage::bare("fresh");
    let Stage { machine, azure, .. } = &stage;
    let before = files(machine);
    assert_open(machine);

    let said = install(machine, 1);
    assert!(
        said.contains("observes") && said.contains("imds-guard status"),
        "{said}"
    );
    for unit in [GUARD, PROXY] {
        assert_eq!(machine.property(unit, "ActiveState").unwrap(), "active");
        assert_eq!(machine.property(unit, "UnitFileState").unwrap(), "enabled");
    }
    let early = "imds-guard-early.service";
    let state = machine.property(early, "UnitFileState").unwrap();
    assert_eq!(state, "enabled", "{early}");
    assert_open(machine);
    assert_eq!(
        azure.received().len(),
        2,
        "both went to the real service: {:?}",
        azure.received()
    );

    let told = observed(machine);
    let endpoints = told["endpoints"].as_array().unwrap();
    assert!(
        endpoints.len() >= 5 && endpoints.iter().all(|e| e["mode"] == "observe"),
        "{told}"
    );
    let line = machine.property(GUARD, "StatusText").unwrap();
    assert!(line.contains("169.254.169.254:80 observe"), "{line}");
    let arguments = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "imds-guard",
        "status",
    ];
    let powerless = machine.run(&arguments).unwrap();
    assert_eq!(powerless.status.code(), Some(5), "{}", both(&powerless));
    machine
        .must(&["imds-guard", "check", "/etc/imds-guard/imds-guard.toml"])
        .unwrap();

    // Nothing is enforced, so nothing has to stay.
    let said = dpkg(machine, &["--remove", "imds-guard"]);
    assert!(!said.contains("REFUSED"), "{said}");
    machine
        .must(&["sh", "-c", "! ls /sys/fs/bpf/imds-guard 2>/dev/null"])
        .unwrap();
    assert_open(machine);
    dpkg(machine, &["--purge", "imds-guard"]);
    assert_nothing_is_left(machine, &before);
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

#[test]
#[ignore = "package: cargo xtask test package"]
fn an_upgrade_and_a_downgrade_let_nothing_through() {
    let stage = Stage::bare("upgrade");
    let Stage { machine, azure, .. } = &stage;
    install(machine, 1);
    enforce(machine);
    let pin = || {
        machine.must(&[
            "sh",
            "-c",
            "stat -c %i /sys/fs/bpf/imds-guard/layout-*/links/connect4",
        ])
    };
    let (guard, pinned) = (machine.main_pid(GUARD).unwrap(), pin().unwrap());
    let passed_before = azure.received().len();
    let asking = asking(machine).unwrap();

    let said = install(machine, 2);
    assert!(said.contains("-2) over"), "{said}");
    let second = machine.wait_active(GUARD, &guard).unwrap();
    machine.wait_active(PROXY, "").unwrap();
    assert_eq!(
        code(machine, "billing"),
        "200",
        "{}",
        machine.journal("imds-guard*")
    );
    assert_eq!(code(machine, "web"), "403");

    let said = install(machine, 1);
    assert!(said.contains("downgrading"), "{said}");
    machine.wait_active(GUARD, &second).unwrap();
    machine.wait_active(PROXY, "").unwrap();
    assert_eq!(
        code(machine, "billing"),
        "200",
        "{}",
        machine.journal("imds-guard*")
    );

    refused_all_the_time(&asking.end().unwrap());
    assert_eq!(
        azure.received().len(),
        passed_before,
        "something got through: {:?}",
        azure.received()
    );
    assert_eq!(
        pin().unwrap(),
        pinned,
        "the link was swapped in place, never removed"
    );
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
    let script = format!("while :; do {each} >>/srv/codes; sleep 0.02; done");
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

#[test]
#[ignore = "package: cargo xtask test package"]
fn a_removal_keeps_what_is_enforced_and_says_so_and_a_purge_gives_it_back() {
    let stage = Stage::bare("removed");
    let Stage { machine, azure, .. } = &stage;
    let before = files(machine);
    install(machine, 1);
    enforce(machine);
    let passed_before = azure.received().len();

    let said = dpkg(machine, &["--remove", "imds-guard"]);
    assert!(
        said.contains("STAYS REFUSED") && said.contains("purge"),
        "{said}"
    );
    for unit in ["billing", "web"] {
        assert_eq!(code(machine, unit), "000", "{unit}");
    }
    assert_eq!(azure.received().len(), passed_before);

    // The other half of a removal may be an installation: all is as it was.
    install(machine, 1);
    machine.wait_active(PROXY, "").unwrap();
    assert_eq!(
        (code(machine, "billing"), code(machine, "web")),
        ("200".into(), "403".into())
    );

    dpkg(machine, &["--purge", "imds-guard"]);
    assert_nothing_is_left(machine, &before);
}

#[test]
#[ignore = "package: cargo xtask test package"]
fn a_start_that_fails_never_fails_dpkg() {
    let stage = Stage::bare("fails");
    let Stage { machine, .. } = &stage;
    // Somebody has the listeners' port.
    machine
        .must(&[
            "systemd-run",
            "--quiet",
            "--unit=squatter",
            "systemd-socket-activate",
            "-l",
            "127.0.0.1:8788",
            "cat",
        ])
        .unwrap();
    let said = install(machine, 1);
    assert!(
        said.contains("it did not start") && !said.contains("observes"),
        "{said}"
    );
    assert_open(machine);
    machine
        .run(&["systemctl", "stop", "squatter.service"])
        .unwrap();
    // It never gave up.
    machine.wait_active(GUARD, "").unwrap();
    enforce(machine);

    // A configuration that the next version can't read: what ran goes on.
    let guard = machine.main_pid(GUARD).unwrap();
    machine.configure("no = 'policy'").unwrap();
    let said = install(machine, 2);
    assert!(said.contains("can't read the configuration"), "{said}");
    assert_eq!(machine.main_pid(GUARD).unwrap(), guard);
    assert_eq!(
        (code(machine, "billing"), code(machine, "web")),
        ("200".into(), "403".into())
    );
    machine.configure(POLICY).unwrap();
    machine.must(&["systemctl", "restart", GUARD]).unwrap();
    machine.wait_active(PROXY, "").unwrap();
    assert_eq!(code(machine, "billing"), "200");
}
