//! Callers in network namespaces of their own: served as themselves, and nobody else; found when they come, forgotten when
//! they go. The real agent, the loaded programs, real namespaces.

mod life;
mod many;
mod observed;
mod served;

use anyhow::{Context as _, Result, bail};
use imds_guard_tests::{Agent, AgentProcess, Response, Workload, World};
use std::time::{Duration, Instant};

/// The agent's port in each of these tests.
const PORT: u16 = 8779;
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

/// Grants uid 1000 in the cgroup `allowed` a token, and whoever is in the host's network namespace beside it another.
const POLICY: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.billing]
cloud = "azure"
source = "mint"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"
[[workload]]
name = "of-the-host"
selectors = ["unix:uid:1003", "net:host"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"
"#;

fn agent(world: &World) -> Agent<'_> {
    world
        .agent()
        .config(POLICY)
        .argument(&format!("--port={PORT}"))
        .log_level("info,imds_guard::intercept=debug")
}

fn started(world: &World) -> Result<AgentProcess> {
    agent(world).start()
}

/// A request as an SDK makes it: it dials again for a moment where it is refused at first.
fn get(who: &Workload<'_>) -> Result<Response> {
    let mut caller = who.connect_with(imds_guard_tests::AZURE_IMDS, &["--again=2000"])?;
    caller.send(request().as_bytes())?;
    caller.response()
}

fn request() -> String {
    format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n")
}

/// Waits for something that comes about within seconds.
fn soon(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(40) {
        if is_so().with_context(|| what.to_owned())? {
            return Ok(from.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("not within 40 s: {what}")
}
