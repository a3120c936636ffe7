//! The unmodified libraries for JavaScript, through interception: @azure/identity here, Amazon's in [`aws_node`]. Azure's
//! encodes its query, sends a Content-Type on a GET, and reads `expires_on` instead of `expires_in`: what satisfies Python alone doesn't satisfy it.

mod aws_node;
mod gcp_node;
mod node_clients;
mod world;

use imds_guard_tests::cast::{BILLING_CLIENT_ID, VAULT};
use imds_guard_tests::{Program, Runtime, Workload, World};
use serde_json::Value;
use world::{Guarded, world};

#[expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]
fn node(world: &World, workload: &Workload<'_>, arguments: &[&str]) -> Value {
    let program = Program {
        runtime: Runtime::Node,
        words: &["azure_token.mjs"],
        environment: &[],
    };
    program.ask(world, workload, arguments).unwrap()
}

fn ended(outcome: &str, status: u64) -> (String, u64) {
    (outcome.to_owned(), status)
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn managed_identity_gets_a_token_that_key_vault_accepts() {
    let world = world("node-managed");
    let guarded = Guarded::new(&world);
    let answer = node(&world, &guarded.cast.billing, &["managed", VAULT]);
    assert_eq!(guarded.claims(&answer)["appid"], BILLING_CLIENT_ID);
    assert_eq!(guarded.endings(1), [ended("allowed", 200)]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_default_chain_probes_and_then_gets_its_token() {
    let world = world("node-default");
    let guarded = Guarded::new(&world);
    let answer = node(
        &world,
        &guarded.cast.billing,
        &["default", VAULT, BILLING_CLIENT_ID],
    );
    guarded.claims(&answer);
    assert_eq!(
        guarded.endings(2),
        [ended("refused", 400), ended("allowed", 200)]
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_is_told_why_after_one_request() {
    let world = world("node-neighbour");
    let guarded = Guarded::new(&world);
    let answer = node(&world, &guarded.cast.neighbour, &["managed", VAULT]);
    guarded.refused(&answer, "no workload");
    assert_eq!(guarded.endings(1), [ended("denied", 403)]);
}
