//! The unmodified @aws-sdk/credential-providers, through interception. It sends no `User-Agent`, takes strings alone, and at a
//! refused token PUT stops asking for tokens for good: ours is never refused.

use crate::world::world;
use imds_guard_tests::cloud::{Guarded as _, Instance};
use imds_guard_tests::{AUTHORIZATION, Program, Runtime, Workload, World};
use serde_json::Value;

#[expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]
fn node(world: &World, workload: &Workload<'_>, kind: &str, environment: &[(&str, &str)]) -> Value {
    let program = Program {
        runtime: Runtime::Node,
        words: &["aws_credentials.mjs", kind],
        environment,
    };
    program.ask(world, workload, &[]).unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_role_of_the_instance_for_whom_policy_grants_it() {
    let world = world("node-aws");
    let instance = Instance::new(&world);
    let answer = node(&world, &instance.batch(), "instance", &[]);
    instance.given(&answer, 1);
    assert_eq!(
        instance.endings(3),
        ["PUT allowed 200", "GET allowed 200", "GET allowed 200"]
    );
    let answer = node(&world, &instance.legacy(), "instance", &[]);
    instance.given(&answer, 2);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_is_refused_and_does_not_try_without_a_session() {
    let world = world("node-aws-no");
    let instance = Instance::new(&world);
    let answer = node(&world, &instance.neighbour(), "instance", &[]);
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(
        instance.aws.received().is_empty(),
        "{:?}",
        instance.aws.lines()
    );
    assert_eq!(instance.endings(2), ["PUT allowed 200", "GET denied 403"]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_container_gets_its_credentials_or_is_told_why_not() {
    let world = world("node-container");
    let instance = Instance::new(&world);
    let instance = instance.restart();
    let environment = [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://169.254.170.2/v2/credentials/0b9f",
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION),
    ];
    let answer = node(&world, &instance.batch(), "container", &environment);
    instance.given(&answer, 1);
    let answer = node(&world, &instance.neighbour(), "container", &environment);
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("Refused by imds-guard"), "{answer}");
}
