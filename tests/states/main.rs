//! Any state of the agent: what a granted and an ungranted caller get in each, and what drifts is put back. [`table`] holds the
//! threat model to naming a test for each row; what needs a service manager is in `tests/systemd`.

#![expect(clippy::unwrap_used, reason = "a test may end with a panic")]

mod bypass;
mod clock;
mod drift;
mod early;
mod files;
mod foreign;
mod full;
mod hung;
mod killed;
mod lifeline;
mod memory;
mod older;
mod others;
mod serving;
mod steps;
mod table;
mod together;
mod trial;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use imds_guard_tests::{AgentProcess, UPSTREAM_TOKEN, Workload, World, binary, patience, require};
use serde_json::Value;

/// A Key Vault token, with the resource as SDKs encode it.
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// Uid 1000 may have Key Vault's token minted. Azure's endpoint is in `mode`.
fn config(mode: &str) -> String {
    format!(
        r#"
[endpoints]
azure-imds = "{mode}"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.minted]
cloud = "azure"
source = "mint"
client_id = "99999999-2222-3333-4444-555555555555"
subject = "spiffe://{{trust_domain}}/host/{{host}}/workload/{{workload}}"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "minted"
"#
    )
}

/// Has the program do something in the world, as root.
fn verb(world: &World, arguments: &[&str]) -> Output {
    let program = binary("imds-guard").unwrap();
    let program = world.show(&program, "imds-guard").unwrap();
    let mut command = Command::new(program);
    command.args(arguments);
    world.enter(|| Ok(command.output()?)).unwrap()
}

fn world(name: &str) -> World {
    require!(Root, Cgroup2, Bpf, Agent);
    World::new(name).unwrap()
}

/// Who has a grant.
fn billing(world: &World) -> Workload<'_> {
    world.workload("billing")
}

/// Who has none.
fn neighbour(world: &World) -> Workload<'_> {
    world.workload("neighbour").uid(1001).gid(3001)
}

/// What somebody gets who asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// One of ours.
    Served,
    /// Our no.
    Denied,
    /// The real service's.
    Untouched,
    /// ECONNREFUSED.
    Refused,
    /// Something else: an error of ours, a connection that broke.
    Other,
}

fn asks(who: &Workload<'_>) -> Gets {
    match who.get(TOKEN) {
        Ok(answer) if answer.text().contains(UPSTREAM_TOKEN) => Gets::Untouched,
        Ok(answer) if answer.status == 200 => Gets::Served,
        Ok(answer) if answer.status == 403 => Gets::Denied,
        Err(error) if error.to_string().contains("refused") => Gets::Refused,
        _ => Gets::Other,
    }
}

/// Waits until `what` is so.
#[track_caller]
fn soon(limit: Duration, what: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < patience(limit),
            "not after {limit:?}: {}",
            what()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The audit's records of drift.
fn drifts(agent: &AgentProcess) -> Vec<Value> {
    let mut records = agent.audit().records().unwrap();
    records.retain(|record| record["event"] == "drift");
    records
}
