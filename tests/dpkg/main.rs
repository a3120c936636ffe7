//! The package on a whole Debian with that Debian's own kernel, made for this run: its life by dpkg from installation to purge,
//! and how exposed its units are to that Debian's systemd. `cargo xtask test systems` makes the machine; nowhere else does this
//! run ([`imds_guard_tests::Machine`] refuses). One test, for each installation takes most of a minute there; the steps apart,
//! and what goes wrong in them, are the package tier's.

#[path = "../systemd/exposure.rs"]
mod exposure;
#[expect(
    dead_code,
    reason = "shared with the suites whose machines are namespaces"
)]
#[path = "../systemd/machine.rs"]
mod machine;
mod stage;
#[path = "../package/steps.rs"]
mod steps;

use stage::Stage;
use steps::{assert_nothing_is_left, assert_open, dpkg, enforce, files};

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn from_installation_to_purge_it_keeps_its_promises() {
    let stage = Stage::bare("life");
    let machine = &stage.machine;
    let before = files(machine);
    assert_open(machine);
    steps::observes(&stage);
    exposure::assert_least(machine);
    enforce(machine);
    steps::upgrades_and_downgrades(&stage);
    dpkg(machine, &["--purge", "imds-guard"]);
    assert_nothing_is_left(machine, &before);
}
