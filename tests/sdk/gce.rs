//! A world that is a virtual machine at Google's to its workloads, guarded: what Google's libraries of every language share here.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use imds_guard_tests::{AgentProcess, FakeGcp, Workload, World};

/// What the rule gives.
pub(crate) const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// For whom it gives an identity token.
pub(crate) const AUDIENCE: &str = "https://registry.example.org";
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
pub(crate) struct Machine<'w> {
    pub(crate) world: &'w World,
    pub(crate) gcp: FakeGcp,
    pub(crate) agent: AgentProcess,
}

impl<'w> Machine<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            gcp: world.gcp().unwrap(),
            agent: start(world),
        }
    }

    fn workload(&self, name: &str, uid: u32) -> Workload<'w> {
        let cgroup = format!("system.slice/{name}.service");
        let workload = self.world.workload(name).uid(uid).gid(uid);
        workload.in_cgroup(&cgroup)
    }

    /// May have what the rule gives.
    pub(crate) fn build(&self) -> Workload<'w> {
        self.workload("build", 61031)
    }

    /// Isn't named in the policy.
    pub(crate) fn neighbour(&self) -> Workload<'w> {
        self.workload("neighbour", 61033)
    }

    /// The agent ends, and another one starts in its place.
    pub(crate) fn restart(self) -> Self {
        let Self { world, gcp, agent } = self;
        drop(agent);
        Self {
            world,
            gcp,
            agent: start(world),
        }
    }
}

fn start(world: &World) -> AgentProcess {
    world.agent().config(POLICY).start().unwrap()
}
