//! A virtual machine at Google's, whose rules forward tokens of one account, narrowed.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use super::{Guarded, workload};
use crate::{AgentProcess, FakeGcp, GCP_CANARY, Trouble, Workload, World};
use serde_json::Value;
use std::time::Duration;

/// What the rule gives.
pub const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// For whom it gives an identity token.
pub const AUDIENCE: &str = "https://registry.example.org";
const POLICY: &str = r#"
[endpoints]
gcp-imds = "enforce"
[identity.build]
cloud = "gcp"
source = "forward"
account = "build@p.iam.gserviceaccount.com"
[[workload]]
name = "build"
selectors = ["unix:uid:61031"]
[[workload.allow]]
token = { cloud = "gcp", scopes = ["https://www.googleapis.com/auth/devstorage.read_only"] }
identity = "build"
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry.example.org"] }
identity = "build"
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/instance", "gcp:/computeMetadata/v1/project/project-id", "gcp:/computeMetadata/v1/universe/universe-domain"]
"#;

/// A guarded machine.
#[derive(Debug)]
pub struct Gce<'w> {
    world: &'w World,
    /// The real server.
    pub gcp: FakeGcp,
    /// The agent.
    pub agent: AgentProcess,
}

impl<'w> Guarded<'w> for Gce<'w> {
    // What the agent keeps of the server's has to end.
    const PAUSE: Duration = Duration::from_millis(2100);

    fn new(world: &'w World) -> Self {
        Self {
            world,
            gcp: world.gcp().unwrap(),
            agent: start(world),
        }
    }

    fn granted(&self) -> Workload<'w> {
        workload(self.world, "build", 61031)
    }

    fn neighbour(&self) -> Workload<'w> {
        workload(self.world, "neighbour", 61033)
    }

    fn restart(self) -> Self {
        let Self { world, gcp, agent } = self;
        drop(agent);
        Self {
            world,
            gcp,
            agent: start(world),
        }
    }

    fn short(&self) {
        self.gcp.lifetime(2);
    }

    fn fails(&self, trouble: Trouble, times: u32) {
        self.gcp.fails(trouble, times);
    }

    fn asked(&self) -> usize {
        let lines = self.gcp.lines();
        lines.iter().filter(|line| line.contains("/token")).count()
    }

    fn is_given(&self, answer: &Value) -> bool {
        let token = answer["token"].as_str().unwrap_or_default();
        answer["ok"] == true && token.starts_with(GCP_CANARY)
    }

    fn agent(&self) -> &AgentProcess {
        &self.agent
    }
}

fn start(world: &World) -> AgentProcess {
    world.agent().config(POLICY).start().unwrap()
}
