//! Worlds that are a virtual machine of a cloud to their workloads, guarded: what the suites of real clients share for each cloud, so
//! that a further client is one line of theirs.

mod ec2;
mod gce;
mod vm;

pub use ec2::Instance;
pub use gce::{AUDIENCE, Gce, STORAGE};
pub use vm::Vm;

use crate::{AgentProcess, Trouble, Workload, World};
use serde_json::Value;
use std::time::Duration;

/// A guarded machine of one cloud: who may have a credential there, who may not, and what can go wrong.
pub trait Guarded<'w>: Sized {
    /// Credentials end so soon that a client asks anew, if it is given this time.
    const PAUSE: Duration;

    /// Lets pass what time it takes, and at least so much, until the agent keeps nothing of what it got.
    fn pause(&self, least: Duration) {
        std::thread::sleep(Self::PAUSE.max(least));
    }

    /// The machine, with its agent.
    fn new(world: &'w World) -> Self;

    /// Has a grant.
    fn granted(&self) -> Workload<'w>;

    /// Isn't named in the policy.
    fn neighbour(&self) -> Workload<'w>;

    /// The agent ends, and another one starts in its place.
    #[must_use]
    fn restart(self) -> Self;

    /// Credentials given from now on end soon ([`Guarded::PAUSE`]).
    fn short(&self);

    /// The next so many credentials meet this at the real service.
    fn fails(&self, trouble: Trouble, times: u32);

    /// How many credentials the real service was asked for.
    fn asked(&self) -> usize;

    /// Whether an answer holds what the real service gave.
    fn is_given(&self, answer: &Value) -> bool;

    /// The agent.
    fn agent(&self) -> &AgentProcess;
}

fn workload<'w>(world: &'w World, name: &str, uid: u32) -> Workload<'w> {
    let cgroup = format!("system.slice/{name}.service");
    world.workload(name).uid(uid).gid(uid).in_cgroup(&cgroup)
}
