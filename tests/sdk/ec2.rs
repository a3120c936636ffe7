//! A world that is an EC2 instance to its workloads, guarded: what Amazon's SDKs of every language share here.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use imds_guard_tests::{AWS_CANARY, AgentProcess, FakeAws, Workload, World};
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
pub(crate) struct Instance<'w> {
    pub(crate) world: &'w World,
    pub(crate) aws: FakeAws,
    pub(crate) agent: AgentProcess,
}

impl<'w> Instance<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            aws: world.aws().unwrap(),
            agent: start(world),
        }
    }

    fn workload(&self, name: &str, uid: u32) -> Workload<'w> {
        let cgroup = format!("system.slice/{name}.service");
        let workload = self.world.workload(name).uid(uid).gid(uid);
        workload.in_cgroup(&cgroup)
    }

    /// May have the instance's role.
    pub(crate) fn batch(&self) -> Workload<'w> {
        self.workload("batch", 61021)
    }

    /// The same, also without a session.
    pub(crate) fn legacy(&self) -> Workload<'w> {
        self.workload("legacy", 61022)
    }

    /// Isn't named in the policy.
    pub(crate) fn neighbour(&self) -> Workload<'w> {
        self.workload("neighbour", 61023)
    }

    /// The agent ends, and another one starts in its place.
    pub(crate) fn restart(self) -> Self {
        let Self { world, aws, agent } = self;
        drop(agent);
        Self {
            world,
            aws,
            agent: start(world),
        }
    }

    /// The real service's credentials, the `nth` that it gave.
    #[track_caller]
    pub(crate) fn given(&self, answer: &Value, nth: u32) {
        assert_eq!(answer["ok"], true, "{answer}\n{}", self.agent.log());
        assert_eq!(answer["secret"], format!("{AWS_CANARY}-{nth}"), "{answer}");
    }

    /// Outcomes, statuses and methods of all exchanges so far, once there are `count`, and of those that an SDK that tries
    /// again would add within a moment.
    pub(crate) fn endings(&self, count: usize) -> Vec<String> {
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
