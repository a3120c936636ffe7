//! Ways back in, under the units as installed and at the places that these have: state, run and log directory.

use std::time::{Duration, Instant};

use imds_guard_tests::{UPSTREAM_TOKEN, World, patience};

use super::machine::Machine;
use super::{GUARD, POLICY, PROXY, VAULT, started};

/// A service that asks again and again, so that it is one run of its unit all the time.
fn keeps_asking(machine: &Machine, unit: &str) {
    let url = format!("http://169.254.169.254{VAULT}");
    let script = format!(
        "while :; do curl -s -m 2 -H 'Metadata: true' '{url}' > /run/asked; echo >> /run/asked; mv /run/asked /run/answer; sleep 0.1; done"
    );
    let unit = format!("--unit={unit}");
    machine
        .must(&["systemd-run", "--quiet", &unit, "sh", "-c", &script])
        .expect("a service");
}

#[track_caller]
fn soon(machine: &Machine, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < patience(Duration::from_secs(30)),
            "{what}\n{}",
            machine.journal("imds-guard*")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until its answers are such.
#[track_caller]
fn gets(machine: &Machine, what: &str, is_so: impl Fn(&str) -> bool) {
    let answer = || machine.must(&["cat", "/run/answer"]).unwrap_or_default();
    soon(machine, what, || is_so(&answer()));
}

fn is_untouched(answer: &str) -> bool {
    answer.contains(UPSTREAM_TOKEN)
}

fn bypass(machine: &Machine, length: &str) -> String {
    let said = machine
        .must(&[
            "imds-guard",
            "bypass",
            "--workload",
            "billing-api",
            "--for",
            length,
            "--reason",
            "incident",
        ])
        .expect("a bypass");
    let id = said.split_whitespace().nth(1).expect("its id");
    id.trim_end_matches(':').to_owned()
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_unit_is_bypassed_by_its_workload_also_with_the_guard_stopped() {
    let world = World::new("glass").unwrap();
    let _azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    keeps_asking(&machine, "billing");
    let is_minted = |answer: &str| answer.contains("access_token") && !is_untouched(answer);
    gets(&machine, "its own token", is_minted);
    let id = bypass(&machine, "1h");
    gets(&machine, "the real service's", is_untouched);
    assert_eq!(machine.ask("web", VAULT).unwrap().0, "403");
    machine.must(&["systemctl", "stop", GUARD, PROXY]).unwrap();
    gets(&machine, "the same", is_untouched);
    assert_eq!(machine.ask("web", VAULT).unwrap().0, "000");
    machine
        .must(&["imds-guard", "bypass", "--end", &id])
        .unwrap();
    gets(&machine, "nothing", str::is_empty);
    // Begun, ended and recorded with nobody there.
    bypass(&machine, "5s");
    gets(&machine, "the real service's", is_untouched);
    gets(&machine, "nothing, by itself", str::is_empty);
    let audit = machine
        .must(&["cat", "/var/log/imds-guard/audit.jsonl"])
        .unwrap();
    let of = |change: &str| {
        let word = format!(r#""change":"{change}""#);
        let lines = audit
            .lines()
            .filter(|line| line.contains(r#""event":"bypass""#));
        lines.filter(|line| line.contains(&word)).count()
    };
    assert_eq!((of("begun"), of("ended")), (2, 1), "{audit}");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_policy_on_trial_goes_back_also_where_the_guard_is_killed_meanwhile() {
    let world = World::new("glass-trial").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    let asks = |unit: &str| machine.ask(unit, VAULT).unwrap().0;
    assert_eq!((asks("billing"), asks("web")), ("200".into(), "403".into()));
    let other = POLICY.replace("systemd:id:billing.service", "systemd:id:web.service");
    machine.configure(&other).unwrap();
    let said = machine
        .must(&["imds-guard", "reload", "--confirm-within", "20s"])
        .unwrap();
    assert!(said.contains("imds-guard confirm"), "{said}");
    let guard = machine.main_pid(GUARD).unwrap();
    let kill = [
        "systemctl",
        "kill",
        "--signal=KILL",
        "--kill-who=main",
        GUARD,
    ];
    machine.must(&kill).unwrap();
    machine.wait_active(GUARD, &guard).unwrap();
    let status = machine.must(&["imds-guard", "status"]).unwrap();
    assert!(status.contains("trial"), "{status}");
    soon(&machine, "the earlier policy", || asks("billing") == "200");
    assert_eq!(asks("web"), "403");
    // Not by a restart, and not by logrotate's reload.
    machine.must(&["systemctl", "restart", GUARD]).unwrap();
    assert_eq!((asks("billing"), asks("web")), ("200".into(), "403".into()));
    super::reload(&machine, "that nobody confirmed");
    assert_eq!((asks("billing"), asks("web")), ("200".into(), "403".into()));
    machine
        .must(&["imds-guard", "reload", "--confirm-within", "1h"])
        .unwrap();
    machine.must(&["imds-guard", "confirm"]).unwrap();
    assert_eq!((asks("billing"), asks("web")), ("403".into(), "200".into()));
    assert!(azure.received().is_empty());
}
