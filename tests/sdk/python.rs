//! The unmodified azure-identity for Python, through interception: what a program gets, and what it is told when it doesn't.

mod aws_python;
mod gcp_python;
mod python_clients;
mod world;

use imds_guard_tests::cast::{BILLING_CLIENT_ID, VAULT};
use world::{Guarded, world};

/// Another identity than billing's.
const OTHER_CLIENT_ID: &str = "0c61a5a7-2222-4333-8444-955566667777";
/// Key Vault's application id: the same resource under its other name.
const VAULT_APPLICATION: &str = "cfa8b339-82a2-471a-a3c9-0fc0be7a4093";
const MAPPED: (&str, &str) = (
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "http://[::ffff:169.254.169.254]",
);

fn ended(outcome: &str, status: u64) -> (String, u64) {
    (outcome.to_owned(), status)
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn managed_identity_gets_a_token_that_key_vault_accepts() {
    let world = world("sdk-managed");
    let guarded = Guarded::new(&world);
    let answer = guarded
        .python
        .token(&guarded.cast.billing, "managed", VAULT, None, &[])
        .unwrap();
    let claims = guarded.claims(&answer);
    assert_eq!(claims["aud"], VAULT);
    assert_eq!(claims["appid"], BILLING_CLIENT_ID);
    assert_eq!(
        claims["sub"],
        "spiffe://example.org/host/demo-host/workload/billing-api"
    );
    assert_eq!(guarded.endings(1), [ended("allowed", 200)]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_default_chain_probes_and_then_gets_its_token() {
    let world = world("sdk-default");
    let guarded = Guarded::new(&world);
    let answer = guarded
        .python
        .token(&guarded.cast.billing, "default", VAULT, None, &[])
        .unwrap();
    guarded.claims(&answer);
    assert_eq!(
        guarded.endings(2),
        [ended("refused", 400), ended("allowed", 200)]
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_pinned_identity_may_be_named_and_no_other() {
    let world = world("sdk-pinned");
    let guarded = Guarded::new(&world);
    let ask = |client_id| {
        let billing = &guarded.cast.billing;
        guarded
            .python
            .token(billing, "managed", VAULT, Some(client_id), &[])
            .unwrap()
    };
    guarded.claims(&ask(BILLING_CLIENT_ID));
    guarded.refused(&ask(OTHER_CLIENT_ID), "another identity");
    assert_eq!(
        guarded.endings(2),
        [ended("allowed", 200), ended("denied", 403)]
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_is_told_why_after_one_request() {
    let world = world("sdk-neighbour");
    let guarded = Guarded::new(&world);
    let answer = guarded
        .python
        .token(&guarded.cast.neighbour, "managed", VAULT, None, &[])
        .unwrap();
    guarded.refused(&answer, "no workload");
    assert_eq!(
        guarded.endings(1),
        [ended("denied", 403)],
        "an SDK that tries again hammers the agent"
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn web_has_no_grant_for_a_token() {
    let world = world("sdk-web");
    let guarded = Guarded::new(&world);
    let answer = guarded
        .python
        .token(&guarded.cast.web, "managed", VAULT, None, &[])
        .unwrap();
    guarded.refused(&answer, "no grant");
    assert_eq!(guarded.endings(1), [ended("denied", 403)]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_application_id_is_the_same_resource() {
    let world = world("sdk-application");
    let guarded = Guarded::new(&world);
    let answer = guarded
        .python
        .token(
            &guarded.cast.billing,
            "managed",
            VAULT_APPLICATION,
            None,
            &[],
        )
        .unwrap();
    // The audience is the rule's word for it, whatever the request calls it.
    assert_eq!(guarded.claims(&answer)["aud"], VAULT);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_mapped_address_is_served_alike() {
    let world = world("sdk-mapped");
    let guarded = Guarded::new(&world);
    let ask = |who| {
        guarded
            .python
            .token(who, "managed", VAULT, None, &[MAPPED])
            .unwrap()
    };
    guarded.claims(&ask(&guarded.cast.billing));
    guarded.refused(&ask(&guarded.cast.neighbour), "no workload");
    assert_eq!(
        guarded.endings(2),
        [ended("allowed", 200), ended("denied", 403)]
    );
}
