//! The unmodified azure-identity, through interception: what decides whether applications notice us at all.

use imds_guard_tests::{AgentProcess, Python, UPSTREAM_TOKEN, Workload, World, require};
use serde_json::Value;
use std::time::Duration;

const VAULT: &str = "https://vault.azure.net";
const ISSUER: &str = "http://127.0.0.1:8787";
const CLIENT_ID: &str = "5f3a9f5e-1111-4222-8333-944455556666";
const ANOTHER: &str = "00000000-9999-4999-8999-000000000000";

fn agent(world: &World) -> AgentProcess {
    require!(Root, Cgroup2, Bpf, Agent);
    let policy =
        include_str!("policy.toml").replace("/WORLD", &world.cgroup_name().expect("a cgroup"));
    world
        .agent()
        .config(&policy)
        .start()
        .expect("an agent that starts")
}

fn billing(world: &World) -> Workload<'_> {
    world.workload("billing").uid(61011).gid(62011)
}

fn ask(world: &World, who: &Workload<'_>, kind: &str, client_id: Option<&str>) -> Value {
    Python::new(world)
        .expect("cargo xtask setup")
        .token(who, kind, VAULT, client_id, &[])
        .expect("a client that runs")
}

fn minted(world: &World, answer: &Value) -> Value {
    let token = answer["token"]
        .as_str()
        .unwrap_or_else(|| panic!("no token: {answer}"));
    assert_ne!(token, UPSTREAM_TOKEN);
    let vault = world.workload("vault").uid(61020);
    Python::new(world)
        .unwrap()
        .verify(&vault, ISSUER, VAULT, token)
        .unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn managed_identity_credential_gets_a_token_that_key_vault_accepts() {
    let world = World::new("managed").unwrap();
    let azure = world.azure().unwrap();
    let agent = agent(&world);
    let verdict = minted(&world, &ask(&world, &billing(&world), "managed", None));
    assert_eq!(verdict["accepted"], true, "{verdict}\n{}", agent.log());
    assert_eq!(verdict["claims"]["aud"], VAULT);
    assert!(azure.received().is_empty(), "the real service was asked");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn default_azure_credential_finds_us_by_its_probe_and_loses_no_second() {
    let world = World::new("default").unwrap();
    let _azure = world.azure().unwrap();
    let _agent = agent(&world);
    let answer = ask(&world, &billing(&world), "default", None);
    assert_eq!(minted(&world, &answer)["accepted"], true);
    let seconds = answer["seconds"].as_f64().unwrap();
    assert!(
        Duration::from_secs_f64(seconds) < Duration::from_secs(5),
        "the probe must be answered at once, took {seconds} s"
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_pinned_identity_may_be_named_and_no_other() {
    let world = World::new("pinned").unwrap();
    let _azure = world.azure().unwrap();
    let _agent = agent(&world);
    let billing = billing(&world);
    assert!(
        ask(&world, &billing, "managed", Some(CLIENT_ID))["ok"]
            .as_bool()
            .unwrap()
    );
    assert_eq!(ask(&world, &billing, "managed", Some(ANOTHER))["ok"], false);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_is_refused_and_the_sdk_says_why() {
    let world = World::new("neighbour").unwrap();
    let azure = world.azure().unwrap();
    let _agent = agent(&world);
    for neighbour in [
        world.workload("billing").uid(61012).gid(62011),
        world.workload("web").uid(61011).gid(62011),
    ] {
        let answer = ask(&world, &neighbour, "managed", None);
        assert_eq!(
            answer["ok"], false,
            "another uid, or another cgroup, got a token"
        );
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    assert!(
        ask(&world, &billing(&world), "managed", None)["ok"]
            .as_bool()
            .unwrap(),
        "and the right one gets it"
    );
    assert!(azure.received().is_empty(), "the real service was asked");
}
