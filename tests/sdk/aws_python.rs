//! The unmodified boto3 and AWS CLI, through interception: what a program gets, and what it is told when it doesn't.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use crate::world::world;
use imds_guard_tests::cloud::{Guarded as _, Instance};
use imds_guard_tests::{AUTHORIZATION, Python, Workload, World};
use serde_json::Value;

const SESSION: &str = "PUT allowed 200";
const GIVEN: &str = "GET allowed 200";

fn boto(world: &World, workload: &Workload<'_>, kind: &str, environment: &[(&str, &str)]) -> Value {
    let python = Python::new(world).unwrap();
    python
        .run(workload, &["aws_credentials.py", kind], environment, "")
        .unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn boto3_gets_the_roles_credentials_and_the_region() {
    let world = world("boto-given");
    let instance = Instance::new(&world);
    let answer = boto(&world, &instance.batch(), "credentials", &[]);
    instance.given(&answer, 1);
    assert_eq!(answer["method"], "iam-role");
    assert_eq!(instance.endings(3), [SESSION, GIVEN, GIVEN]);
    let region = boto(&world, &instance.batch(), "region", &[]);
    assert_eq!(region["region"], "eu-central-1");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_next_process_gets_the_keys_that_are_kept() {
    let world = world("boto-kept");
    let instance = Instance::new(&world);
    for _ in 0..2 {
        instance.given(&boto(&world, &instance.batch(), "credentials", &[]), 1);
    }
    let asked = instance.aws.lines();
    let keys = asked.iter().filter(|line| line.ends_with("/instance-role"));
    assert_eq!(keys.count(), 1, "{asked:?}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn boto3_without_a_grant_has_no_credentials_after_three_requests_at_most() {
    let world = world("boto-refused");
    let instance = Instance::new(&world);
    let answer = boto(&world, &instance.neighbour(), "credentials", &[]);
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer["error"], "Unable to locate credentials");
    assert!(answer["seconds"].as_f64().unwrap() < 1.5, "{answer}");
    assert!(
        instance.aws.received().is_empty(),
        "{:?}",
        instance.aws.lines()
    );
    assert_eq!(instance.endings(2), [SESSION, "GET denied 403"]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn boto3_takes_a_containers_credentials_and_shows_why_it_gets_none() {
    let world = world("boto-container");
    let instance = Instance::new(&world);
    let uri = (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "/v2/credentials/0b9f",
    );
    let authorization = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION);
    // The relative form takes no authorisation; the full one does.
    let full = (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://169.254.170.2/v2/credentials/0b9f",
    );
    let answer = boto(
        &world,
        &instance.batch(),
        "credentials",
        &[full, authorization],
    );
    instance.given(&answer, 1);
    assert_eq!(answer["method"], "container-role");
    let answer = boto(&world, &instance.neighbour(), "credentials", &[uri]);
    assert_eq!(answer["ok"], false, "{answer}");
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("Refused by imds-guard"), "{error}");
}

fn cli(world: &World, workload: &Workload<'_>) -> (String, bool) {
    let python = Python::new(world).unwrap();
    let arguments = ["-m", "awscli", "configure", "list"];
    let mut client = python.spawn(workload, &arguments, &[]).unwrap();
    drop(client.stdin.take());
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        text + &String::from_utf8_lossy(&output.stderr),
        output.status.success(),
    )
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_cli_finds_the_role_or_nothing() {
    let world = world("aws-cli");
    let instance = Instance::new(&world);
    let (text, ended) = cli(&world, &instance.batch());
    assert!(
        ended && text.contains("iam-role"),
        "{text}\n{}",
        instance.agent.log()
    );
    let (text, _) = cli(&world, &instance.neighbour());
    assert!(
        !text.contains("iam-role") && text.contains("access_key"),
        "{text}"
    );
    assert!(text.contains("<not set>"), "{text}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_client_of_imdsv1_works_where_its_rule_says_so_on_a_machine_that_demands_sessions() {
    let world = world("boto-v1");
    let instance = Instance::new(&world);
    let target = "/latest/meta-data/iam/security-credentials/";
    let curl = |workload: &Workload<'_>| {
        let url = format!("http://169.254.169.254{target}");
        let arguments = ["-sS", "-o", "-", "-w", "%{http_code}", &url];
        let output = workload.run("/usr/bin/curl".as_ref(), &arguments).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(curl(&instance.legacy()), "instance-role200");
    let refused = curl(&instance.batch());
    assert!(
        refused.ends_with("401") && refused.contains("IMDSv2"),
        "{refused}"
    );
    // The same rule serves boto3, which has sessions.
    instance.given(&boto(&world, &instance.legacy(), "credentials", &[]), 1);
}
