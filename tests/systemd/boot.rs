//! Boot: guarded before the network is up, with an exception for what has to run early, and without a cycle of orders.

use imds_guard_tests::{UPSTREAM_TOKEN, World, require};

use crate::machine::Machine;
use crate::{EARLY, GUARD, POLICY, PROXY, VAULT};

/// Asks while it is started, as the cloud's own units do: ordered as Debian's cloud-init orders itself.
fn asks(before: &str) -> String {
    // A percent sign begins a specifier there.
    let target = VAULT.replace('%', "%%");
    format!(
        "[Unit]\nDefaultDependencies=no\nWants=network-pre.target\nBefore=network-pre.target sysinit.target\n{before}\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'curl -s -m 3 -H \"Metadata: true\" \"http://169.254.169.254{target}\" >/run/%N.said; echo $? >/run/%N.code'\n"
    )
}

const UNITS: &str = "etc/systemd/system";

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn before_the_network_is_up_enforced_addresses_are_refused_but_for_whom_the_unit_names() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("boot").unwrap();
    let azure = world.azure().unwrap();
    let (passes, others) = (asks(""), asks("After=imds-guard-early.service"));
    let wants = |target: &str, unit: &str| format!("{UNITS}/{target}.wants/{unit}");
    let link = |unit: &str| format!("/{UNITS}/{unit}");
    let file = |unit: &str| format!("{UNITS}/{unit}");
    let files = [
        (wants("sysinit.target", EARLY), link(EARLY)),
        (wants("multi-user.target", GUARD), link(GUARD)),
        (wants("multi-user.target", PROXY), link(PROXY)),
        (file("cloud-init-local.service"), passes),
        (
            wants("sysinit.target", "cloud-init-local.service"),
            link("cloud-init-local.service"),
        ),
        (file("nosy.service"), others),
        (
            wants("sysinit.target", "nosy.service"),
            link("nosy.service"),
        ),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(p, t)| (p.as_str(), t.as_str()))
        .collect();
    let machine = Machine::boot_with(&world, POLICY, &files).unwrap();
    let said = |unit: &str, what: &str| {
        machine
            .must(&["cat", &format!("/run/{unit}.{what}")])
            .unwrap()
    };
    let journal = machine.journal("imds-guard*");
    // curl's 7: refused.
    assert_eq!(said("nosy", "code"), "7", "{journal}");
    assert_eq!(said("cloud-init-local", "code"), "0", "{journal}");
    assert!(said("cloud-init-local", "said").contains(UPSTREAM_TOKEN));
    assert_eq!(azure.received().len(), 1, "{:?}", azure.received());
    let cycles = machine.must(&["journalctl", "-b", "--no-pager"]).unwrap();
    assert!(!cycles.contains("ordering cycle"), "{cycles}");
    assert_eq!(machine.property(EARLY, "ActiveState").unwrap(), "active");
    // The guard has taken over, and the exception is over.
    machine.wait_active(PROXY, "").unwrap();
    assert_eq!(machine.ask("billing", VAULT).unwrap().0, "200", "{journal}");
    machine.must(&["systemctl", "stop", GUARD, PROXY]).unwrap();
    machine
        .must(&["systemctl", "restart", "cloud-init-local.service"])
        .unwrap();
    assert_eq!(said("cloud-init-local", "code"), "7");
    // Shutdown stops it, which removes nothing.
    machine.must(&["systemctl", "stop", EARLY]).unwrap();
    assert_eq!(machine.ask("web", VAULT).unwrap().0, "000");
    assert_eq!(azure.received().len(), 1, "{:?}", azure.received());
}
