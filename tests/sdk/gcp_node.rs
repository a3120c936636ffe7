//! The unmodified google-auth-library and gcp-metadata, through interception. They look for the server by a directory without its
//! slash, don't encode an audience, and take no answer without `Metadata-Flavor`.

use crate::world::world;
use imds_guard_tests::cloud::{AUDIENCE, Gce, Guarded as _, STORAGE};
use imds_guard_tests::{GCP_CANARY, Program, Runtime, Workload, World, claims};
use serde_json::Value;

#[expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]
fn google(world: &World, workload: &Workload<'_>, words: &[&str]) -> Value {
    let program = Program {
        runtime: Runtime::Node,
        words: &["gcp_token.mjs"],
        environment: &[("GCE_METADATA_HOST", "169.254.169.254")],
    };
    program.ask(world, workload, words).unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_library_finds_the_server_and_gets_the_rules_token() {
    let world = world("google-node");
    let machine = Gce::new(&world);
    let there = google(&world, &machine.granted(), &["there"]);
    assert_eq!(
        (&there["there"], &there["project"]),
        (&true.into(), &"p".into()),
        "{there}"
    );
    for words in [&["token"][..], &["token", STORAGE]] {
        let answer = google(&world, &machine.granted(), words);
        assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
        assert_eq!(answer["token"], format!("{GCP_CANARY}-1"), "{answer}");
    }
    let machine = machine.restart();
    let answer = google(&world, &machine.granted(), &["token"]);
    assert_eq!(answer["token"], format!("{GCP_CANARY}-2"), "{answer}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_library_gets_an_identity_token_with_an_audience_that_it_does_not_encode() {
    let world = world("google-node-identity");
    let machine = Gce::new(&world);
    let answer = google(&world, &machine.granted(), &["identity", AUDIENCE]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
    assert_eq!(
        claims(answer["token"].as_str().unwrap()).unwrap()["aud"],
        AUDIENCE
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_library_says_why_it_gets_none() {
    let world = world("google-node-refused");
    let machine = Gce::new(&world);
    let answer = google(&world, &machine.neighbour(), &["identity", AUDIENCE]);
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(
        answer.to_string().contains("Refused by imds-guard"),
        "{answer}"
    );
    assert!(
        machine.gcp.received().is_empty(),
        "{:?}",
        machine.gcp.lines()
    );
}
