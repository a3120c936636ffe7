//! Where a package lives its life here: a Debian in namespaces, of its own for each test.

use super::deb;
use super::machine::Machine;
use imds_guard_tests::{FakeAzure, World, require};

/// Where the packages lie, inside: `imds-guard-REVISION.deb`.
pub(crate) const PACKAGES: &str = "/srv";

/// A machine with both packages lying in it, neither installed, and what stands for the real service.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
    pub(crate) azure: FakeAzure,
    _world: World,
}

impl Stage {
    pub(crate) fn bare(name: &str) -> Self {
        require!(Root, Cgroup2, Bpf);
        let world = World::new(name).expect("a world");
        let azure = world.azure().expect("a service");
        let inside = |revision| format!("{}/imds-guard-{revision}.deb", &PACKAGES[1..]);
        let files = [1, 2].map(|revision| (deb(revision).expect("a package"), inside(revision)));
        Self {
            machine: Machine::with(&world, &files, &[]).expect("it boots"),
            azure,
            _world: world,
        }
    }
}
