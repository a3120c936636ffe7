//! An instance of EC2, whose rule forwards its role.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use super::{Guarded, workload};
use crate::{AWS_CANARY, AgentProcess, FakeAws, ROLE, Trouble, Workload, World};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

const POLICY: &str = r#"
[endpoints]
aws-imds = "enforce"
aws-ecs = "enforce"
[identity.own]
cloud = "aws"
source = "forward"
role = "instance-role"
[[workload]]
name = "batch"
selectors = ["unix:uid:61021"]
[[workload.allow]]
token = { cloud = "aws" }
identity = "own"
[[workload.allow]]
read = ["aws:/latest/meta-data/placement/**"]
[[workload]]
name = "legacy"
selectors = ["unix:uid:61022"]
[[workload.allow]]
token = { cloud = "aws" }
identity = "own"
imdsv1 = true
until = 2099-01-01
owner = "team-legacy"
limit = "50/s"
"#;

/// A guarded instance that demands session tokens.
#[derive(Debug)]
pub struct Instance<'w> {
    world: &'w World,
    /// The real services.
    pub aws: FakeAws,
    /// The agent.
    pub agent: AgentProcess,
}

impl<'w> Instance<'w> {
    /// May have the instance's role.
    #[must_use]
    pub fn batch(&self) -> Workload<'w> {
        workload(self.world, "batch", 61021)
    }

    /// The same, also without a session.
    #[must_use]
    pub fn legacy(&self) -> Workload<'w> {
        workload(self.world, "legacy", 61022)
    }

    /// The real service's credentials, the `nth` that it gave.
    ///
    /// # Panics
    /// When the answer holds others.
    #[track_caller]
    pub fn given(&self, answer: &Value, nth: u32) {
        assert_eq!(answer["ok"], true, "{answer}\n{}", self.agent.log());
        assert_eq!(answer["secret"], format!("{AWS_CANARY}-{nth}"), "{answer}");
    }

    /// Outcomes, statuses and methods of all exchanges so far, once there are `count`, and of those that an SDK that tries
    /// again would add within a moment.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn endings(&self, count: usize) -> Vec<String> {
        let audit = self.agent.audit();
        audit.wait_exchanges(count).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ending = |record: &Value| {
            format!(
                "{} {} {}",
                word(&record["method"]),
                word(&record["outcome"]),
                record["status"]
            )
        };
        audit.exchanges().unwrap().iter().map(ending).collect()
    }
}

fn start(world: &World) -> AgentProcess {
    world.agent().config(POLICY).start().unwrap()
}

impl<'w> Guarded<'w> for Instance<'w> {
    // An SDK asks again whenever a new client is made, or its credentials are about to end. The agent keeps what the service gave for
    // as long as it is good for, which is hours; it keeps nothing over a reload.
    const PAUSE: Duration = Duration::from_millis(500);

    fn pause(&self, least: Duration) {
        self.agent.signal(Signal::SIGHUP).unwrap();
        std::thread::sleep(Self::PAUSE.max(least));
    }

    fn new(world: &'w World) -> Self {
        let aws = world.aws().unwrap();
        aws.sts(world).unwrap();
        Self {
            world,
            aws,
            agent: start(world),
        }
    }

    fn granted(&self) -> Workload<'w> {
        self.batch()
    }

    fn neighbour(&self) -> Workload<'w> {
        workload(self.world, "neighbour", 61023)
    }

    fn restart(self) -> Self {
        let Self { world, aws, agent } = self;
        drop(agent);
        Self {
            world,
            aws,
            agent: start(world),
        }
    }

    fn short(&self) {}

    fn fails(&self, trouble: Trouble, times: u32) {
        self.aws.fails(trouble, times);
    }

    fn asked(&self) -> usize {
        let lines = self.aws.lines();
        let role = format!("security-credentials/{ROLE}");
        lines.iter().filter(|line| line.ends_with(&role)).count()
    }

    fn is_given(&self, answer: &Value) -> bool {
        let secret = answer["secret"].as_str().unwrap_or_default();
        answer["ok"] == true && secret.starts_with(AWS_CANARY)
    }

    fn agent(&self) -> &AgentProcess {
        &self.agent
    }
}
