//! Effects, modes and policy's features, end to end: real processes, the loaded programs, both processes of the agent, and a
//! server where the real service stands. Each refusal has its twin that passes.

#![expect(clippy::unwrap_used, reason = "a test may end with a panic")]

mod addresses;
mod attested;
mod aws;
mod azure;
mod dialect;
mod explain;
mod forward;
mod gcp;
mod keys;
mod modes;
mod policy;
mod rotation;

use imds_guard_tests::{Caller, Response, World};
use serde_json::Value;

/// A Key Vault token, with the resource as SDKs encode it.
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
/// A leaf of the instance document.
const LOCATION: &str = "/metadata/instance/compute/location?api-version=2021-02-01&format=text";
/// The identity that rules here pin.
const PINNED: &str = "11111111-2222-3333-4444-555555555555";

/// Host, issuer, a minted and a forwarded identity, and a document; rules come behind it.
const COMMON: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.minted]
cloud = "azure"
source = "mint"
client_id = "99999999-2222-3333-4444-555555555555"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"
object_id = "aaaaaaaa-2222-3333-4444-555555555555"
[document.web]
cloud = "azure"
instance = { compute = { location = "westeurope", name = "web-07", tenantId = "72f988bf-0000-0000-0000-2d7cd011db47" }, network = { interface = [{ macAddress = "000D3A000001" }] } }
"#;

/// Uid 1000 may have Key Vault's token minted, and reads a document.
const MINTS: &str = r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
[[workload.allow]]
read = ["azure:/metadata/**"]
document = "web"
"#;

/// Uid 1000 may have Key Vault's token of the real service, and reads what that says.
const FORWARDS: &str = r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "real"
[[workload.allow]]
read = ["azure:/metadata/**"]
"#;

/// The whole file: Azure's endpoint in `mode`, [`COMMON`], and these rules.
fn config(mode: &str, rules: &str) -> String {
    format!("[endpoints]\nazure-imds = \"{mode}\"\n{COMMON}{rules}")
}

/// A head as SDKs send it.
fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n")
}

fn ask(caller: &mut Caller, head: &str) -> Response {
    caller.send(head.as_bytes()).unwrap();
    caller.response().unwrap()
}

/// Whether the token in an answer is one of ours (a JWT) and not the real service's; its signature is checked elsewhere.
fn minted(answer: &Response) -> bool {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.json().unwrap()["access_token"].clone();
    token.as_str().unwrap().matches('.').count() == 2
}

#[track_caller]
fn refused(answer: &Response, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.text());
    assert_eq!(answer.json().unwrap()["error"], code, "{}", answer.text());
}

/// The audit record of the `nth` request (or observed connection) of `pid`, counted from 1.
fn record_of(agent: &imds_guard_tests::AgentProcess, pid: u32, nth: usize) -> Value {
    let deadline =
        std::time::Instant::now() + imds_guard_tests::patience(std::time::Duration::from_secs(5));
    loop {
        let mut all = agent.audit().records().unwrap();
        all.retain(|record| record["caller"]["pid"] == pid && record["event"] != "signed");
        if all.len() >= nth {
            return all.swap_remove(nth - 1);
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{pid} made no {nth}th request: {all:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn world(name: &str) -> World {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent);
    World::new(name).unwrap()
}
