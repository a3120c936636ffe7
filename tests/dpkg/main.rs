//! The package on a whole Debian with that Debian's own kernel, made for this run: the life that dpkg gives it, and how exposed
//! its units are to that Debian's systemd. `cargo xtask test systems` makes the machine; nowhere else do these tests run
//! ([`imds_guard_tests::Machine`] refuses). Each finds nothing installed, and leaves nothing.

#[path = "../systemd/exposure.rs"]
mod exposure;
#[path = "../package/life.rs"]
mod life;
#[expect(
    dead_code,
    reason = "shared with the suites whose machines are namespaces"
)]
#[path = "../systemd/machine.rs"]
mod machine;
mod stage;

use stage::Stage;

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn the_installed_units_are_no_more_exposed_than_promised() {
    let stage = Stage::bare("exposure");
    let install = ["dpkg", "--install", "/run/payload/imds-guard-1.deb"];
    stage.machine.must(&install).expect("installed");
    exposure::assert_least(&stage.machine);
}
