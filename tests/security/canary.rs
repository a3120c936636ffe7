//! No secret in any output: tokens and keys are looked for in everything that the agent wrote.

use anyhow::{Context, Result};
use imds_guard_tests::{World, require};
use std::fs;

use super::{TOKEN, agent};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn no_token_and_no_key_is_in_any_log_or_record() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("canary")?;
    let agent = agent(&world)?;
    let answer = world.workload("billing").get(TOKEN)?;
    assert_eq!(answer.status, 200);
    let refused = world
        .workload("other")
        .uid(1001)
        .get(&format!("{TOKEN}&client_id=canary-in-a-query"))?;
    assert_eq!(refused.status, 403);
    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let token = body["access_token"].as_str().context("no token")?;
    let signature = token.rsplit('.').next().context("no signature")?;
    agent.audit().wait(2)?;
    let audit = fs::read_to_string(world.directory().join("audit.jsonl"))?;
    for (place, text) in [("audit", &audit), ("log", &agent.log())] {
        for secret in [token, signature, "PRIVATE KEY", "canary-in-a-query"] {
            assert!(!text.contains(secret), "{secret} stands in the {place}");
        }
    }
    assert!(
        audit.contains("jti"),
        "what may be known of it does: {audit}"
    );
    let refusal = String::from_utf8_lossy(&refused.body).into_owned();
    for internal in ["billing", "canary", "/var", "unix:"] {
        assert!(
            !refusal.contains(internal),
            "{internal} stands in {refusal}"
        );
    }
    Ok(())
}
