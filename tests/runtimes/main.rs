//! Real container engines, real units and a real VRF, on a whole Debian that was made for this run and ends with it: the package
//! is installed there as an operator would, and guards the machine from its topmost cgroup. `cargo xtask test systems` makes the
//! machine; nowhere else do these tests run ([`imds_guard_tests::Machine`] refuses).
//!
//! Each test is a process of its own and leaves no agent behind. Each caller that gets nothing has a twin beside it that does.

mod asker;
mod installed;
mod podman;
mod rootful;
mod rootless;
mod table;
mod units;
mod vrf;
