//! The signing key through the agent's life: made at the first mint, kept, refused where others could have read it.

use super::{MINTS, TOKEN, config, minted, world};
use imds_guard_tests::{Response, World};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn key(world: &World) -> PathBuf {
    world.directory().join("state/issuer-key.json")
}

/// The head of a token: everything before its first dot.
fn header(answer: &Response) -> String {
    let body = answer.json().unwrap();
    let token = body["access_token"].as_str().unwrap();
    token.split('.').next().unwrap().to_owned()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_first_mint_makes_a_key_for_this_machine_and_a_restart_keeps_it() {
    let world = world("key");
    let config = config("enforce", MINTS);
    let agent = world.agent().config(&config).start().unwrap();
    let ready = Instant::now();
    assert!(!key(&world).exists(), "before anybody asked");
    // Nobody without a grant has a key made.
    let nobody = world.workload("nobody").uid(1001);
    assert_eq!(nobody.get(TOKEN).unwrap().status, 403);
    assert!(!key(&world).exists());
    let billing = world.workload("billing");
    let first = billing.get(TOKEN).unwrap();
    println!("from READY to the first token: {:?}", ready.elapsed());
    assert!(minted(&first));
    let mode = std::fs::metadata(key(&world)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let text = std::fs::read_to_string(key(&world)).unwrap();
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert!(file["machine"].is_string(), "bound to a machine");
    assert!(
        machine.is_empty() || !text.contains(machine.trim()),
        "the machine id itself is nobody's business"
    );
    drop(agent);
    let again = world.agent().config(&config).start().unwrap();
    let second = billing.get(TOKEN).unwrap();
    assert_eq!(header(&first), header(&second), "kid and algorithm");
    assert_eq!(std::fs::read_to_string(key(&world)).unwrap(), text);
    drop(again);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_key_that_others_could_read_or_of_another_machine_is_refused_and_left_alone() {
    let world = world("key-mode");
    let config = config("enforce", MINTS);
    let agent = world.agent().config(&config).start().unwrap();
    assert!(minted(&world.workload("billing").get(TOKEN).unwrap()));
    drop(agent);
    let whole = std::fs::read_to_string(key(&world)).unwrap();
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(key(&world), permissions).unwrap();
    };
    let refused = |wanted: &str| {
        let mut agent = world.agent().config(&config).spawn().unwrap();
        let status = agent.wait_end(Duration::from_secs(10)).unwrap();
        assert!(!status.success());
        let log = agent.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(wanted), "{last}");
    };
    mode(0o640);
    refused("chmod 0600");
    mode(0o600);
    let machine = serde_json::from_str::<serde_json::Value>(&whole).unwrap()["machine"].clone();
    let foreign = whole.replace(machine.as_str().unwrap(), "another");
    std::fs::write(key(&world), &foreign).unwrap();
    refused("made on another machine");
    assert_eq!(std::fs::read_to_string(key(&world)).unwrap(), foreign);
    std::fs::write(key(&world), &whole).unwrap();
    let _agent = world.agent().config(&config).start().unwrap();
    assert!(minted(&world.workload("billing").get(TOKEN).unwrap()));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_sdk_that_asks_at_once_has_its_token_within_its_second() {
    let world = world("key-speed");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let ready = Instant::now();
    let answer = world.workload("billing").get(TOKEN).unwrap();
    let took = ready.elapsed();
    println!("from READY to the first token: {took:?}");
    assert!(minted(&answer));
    // Without optimisation, finding two primes takes what it takes.
    if !cfg!(debug_assertions) {
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    drop(agent);
}
