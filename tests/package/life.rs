//! A package's life: install, run, upgrade, downgrade, remove, purge, by dpkg, with callers beside it.

use super::stage::Stage;
use super::steps::{
    GUARD, POLICY, PROXY, assert_nothing_is_left, assert_open, code, dpkg, enforce, files, install,
    observes, upgrades_and_downgrades,
};

#[test]
#[ignore = "package: cargo xtask test package"]
fn a_fresh_install_observes_and_changes_nothing_and_goes_without_a_trace() {
    let stage = Stage::bare("fresh");
    let machine = &stage.machine;
    let before = files(machine);
    assert_open(machine);

    observes(&stage);

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

#[test]
#[ignore = "package: cargo xtask test package"]
fn an_upgrade_and_a_downgrade_let_nothing_through() {
    let stage = Stage::bare("upgrade");
    install(&stage.machine, 1);
    enforce(&stage.machine);
    upgrades_and_downgrades(&stage);
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
