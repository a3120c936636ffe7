//! The unmodified google-auth, through interception: what a program gets, and what it is told when it doesn't.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use crate::world::world;
use imds_guard_tests::cloud::{AUDIENCE, Gce, Guarded as _, STORAGE};
use imds_guard_tests::{GCP_CANARY, GCP_OTHER, Python, Workload, World, claims};
use serde_json::Value;

/// Where the libraries find the server: its name isn't known in a world. Both are documented, and both are needed.
const PLACE: [(&str, &str); 2] = [
    ("GCE_METADATA_HOST", "169.254.169.254"),
    ("GCE_METADATA_IP", "169.254.169.254"),
];

fn auth(world: &World, workload: &Workload<'_>, words: &[&str]) -> Value {
    let python = Python::new(world).unwrap();
    let mut arguments = vec!["gcp_token.py"];
    arguments.extend(words);
    python.run(workload, &arguments, &PLACE, "").unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn google_auth_gets_the_rules_token_whether_it_names_scopes_or_not() {
    let world = world("google-given");
    let machine = Gce::new(&world);
    for scopes in [&[][..], &[STORAGE][..]] {
        let words: Vec<&str> = ["token"].iter().chain(scopes).copied().collect();
        let answer = auth(&world, &machine.granted(), &words);
        assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
        assert_eq!(answer["token"], format!("{GCP_CANARY}-1"));
        assert_eq!(
            (&answer["project"], &answer["account"]),
            (&"p".into(), &GCP_OTHER.into())
        );
    }
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn google_auth_gets_an_identity_token_for_the_rules_audience() {
    let world = world("google-identity");
    let machine = Gce::new(&world);
    let answer = auth(&world, &machine.granted(), &["identity", AUDIENCE]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
    assert_eq!(
        claims(answer["token"].as_str().unwrap()).unwrap()["aud"],
        AUDIENCE
    );
    let other = auth(
        &world,
        &machine.granted(),
        &["identity", "https://other.example.org"],
    );
    assert_eq!(other["ok"], false, "{other}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn google_auth_without_a_grant_says_why_at_once() {
    let world = world("google-refused");
    let machine = Gce::new(&world);
    let cloud = "https://www.googleapis.com/auth/cloud-platform";
    for (workload, words) in [
        (machine.neighbour(), vec!["token", STORAGE]),
        (machine.granted(), vec!["token", cloud]),
    ] {
        let answer = auth(&world, &workload, &words);
        assert_eq!(answer["ok"], false, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("Refused by imds-guard"), "{error}");
        assert!(answer["seconds"].as_f64().unwrap_or(0.0) < 3.0, "{answer}");
    }
    let tokens = machine.gcp.lines();
    assert!(
        !tokens.iter().any(|line| line.contains("/token")),
        "{tokens:?}"
    );
}
