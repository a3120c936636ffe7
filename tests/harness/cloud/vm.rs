//! A virtual machine at Azure's, whose rule forwards the token of one identity.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use super::{Guarded, workload};
use crate::{AgentProcess, FakeAzure, Trouble, UPSTREAM_TOKEN, Workload, World};
use serde_json::Value;
use std::time::Duration;

const POLICY: &str = r#"
[endpoints]
azure-imds = "enforce"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "5f3a9f5e-1111-4222-8333-944455556666"
[[workload]]
name = "billing"
selectors = ["unix:uid:61041"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "real"
"#;

/// A guarded machine.
#[derive(Debug)]
pub struct Vm<'w> {
    world: &'w World,
    azure: FakeAzure,
    agent: AgentProcess,
}

impl<'w> Guarded<'w> for Vm<'w> {
    // Each client renews what has less than five minutes left.
    const PAUSE: Duration = Duration::ZERO;

    fn new(world: &'w World) -> Self {
        Self {
            world,
            azure: world.azure().unwrap(),
            agent: world.agent().config(POLICY).start().unwrap(),
        }
    }

    fn granted(&self) -> Workload<'w> {
        workload(self.world, "billing", 61041)
    }

    fn neighbour(&self) -> Workload<'w> {
        workload(self.world, "neighbour", 61043)
    }

    fn restart(self) -> Self {
        let Self {
            world,
            azure,
            agent,
        } = self;
        drop(agent);
        Self {
            world,
            azure,
            agent: world.agent().config(POLICY).start().unwrap(),
        }
    }

    fn short(&self) {
        self.azure.lifetime(60);
    }

    fn fails(&self, trouble: Trouble, times: u32) {
        self.azure.fails(trouble, times);
    }

    fn asked(&self) -> usize {
        self.azure.received().len()
    }

    fn is_given(&self, answer: &Value) -> bool {
        answer["ok"] == true && answer["token"] == UPSTREAM_TOKEN
    }

    fn agent(&self) -> &AgentProcess {
        &self.agent
    }
}
