//! On a cloud's machine: the unmodified boto3 and google-auth get something narrower than the machine's own identity, which a
//! resource of the cloud's takes; the machine's own reaches no caller, and the neighbour gets nothing.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

mod aws;
mod faults;
mod gcp;
mod signature;

use imds_guard_tests::{World, require};

fn world(name: &str) -> World {
    require!(Root, Cgroup2, Bpf, Agent);
    World::new(name).unwrap()
}
