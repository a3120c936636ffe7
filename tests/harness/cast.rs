//! The demo's programs, each with a uid, a gid and a cgroup of its own, and the policy about them (`tests/demo/policy.toml`).
//!
//! Owns the numbers that `policy.toml` speaks of. Uids lie beyond those of people and services, so that a machine's own
//! users are nobody here.

use crate::{Workload, World};
use anyhow::Result;

/// Key Vault's resource, as SDKs name it.
pub const VAULT: &str = "https://vault.azure.net";
/// Storage's.
pub const STORAGE: &str = "https://storage.azure.com";
/// Azure Resource Manager's: nobody here may have it.
pub const ARM: &str = "https://management.azure.com";
/// The demo's configuration, policy in it.
pub const POLICY: &str = include_str!("../demo/policy.toml");
/// The `iss` of each token, and where its keys are published.
pub const ISSUER: &str = "http://127.0.0.1:8787";
/// The identity that billing's tokens are of.
pub const BILLING_CLIENT_ID: &str = "5f3a9f5e-1111-4222-8333-944455556666";

/// The demo's policy, for this world.
///
/// # Errors
/// When the cgroup hierarchy is no longer mounted.
pub fn policy(world: &World) -> Result<String> {
    placed(world, POLICY)
}

/// A policy in which `/WORLD` stands for the world's cgroup, with its real place put in.
///
/// # Errors
/// When the cgroup hierarchy is no longer mounted.
pub fn placed(world: &World, policy: &str) -> Result<String> {
    Ok(placed_in(&world.cgroup_name()?, policy))
}

fn placed_in(cgroup: &str, policy: &str) -> String {
    policy.replace("cgroup:path:/WORLD/", &format!("cgroup:path:{cgroup}/"))
}

/// The programs.
#[derive(Debug)]
pub struct Cast<'w> {
    /// May have Key Vault's token.
    pub billing: Workload<'w>,
    /// May have Storage's token.
    pub backup: Workload<'w>,
    /// May read where it runs.
    pub web: Workload<'w>,
    /// Isn't named in the policy.
    pub neighbour: Workload<'w>,
    /// Stands for Key Vault: it checks tokens, and asks for none.
    pub vault: Workload<'w>,
}

impl<'w> Cast<'w> {
    /// All of them, in this world.
    #[must_use]
    pub fn of(world: &'w World) -> Self {
        let one = |name: &str, uid: u32| {
            let cgroup = format!("system.slice/{name}.service");
            world
                .workload(name)
                .uid(uid)
                .gid(uid + 1000)
                .in_cgroup(&cgroup)
        };
        Self {
            billing: one("billing", 61011),
            backup: one("backup", 61012),
            web: one("web", 61013),
            neighbour: one("neighbour", 61014),
            vault: one("key-vault", 61015),
        }
    }

    /// Each with the name that a person calls it by, and what the policy says of it.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Workload<'w>, &'static str); 4] {
        [
            (
                "billing",
                &self.billing,
                "may have Key Vault's token, as the identity `billing`",
            ),
            (
                "backup",
                &self.backup,
                "may have Storage's token, as the identity `backup`",
            ),
            (
                "web",
                &self.web,
                "may read /metadata/instance, and gets no token",
            ),
            ("neighbour", &self.neighbour, "isn't named in the policy"),
        ]
    }
}

/// The target of a token request, as an SDK writes it.
#[must_use]
pub fn token_of(resource: &str) -> String {
    format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use imds_guard_core::policy::{Source, compile};

    #[test]
    fn the_policy_compiles_without_a_warning() {
        for cgroup in [
            "/WORLD",
            "/user.slice/session-1.scope/imds-guard-test.1.demo",
        ] {
            let source = Source {
                name: "policy.toml".into(),
                text: placed_in(cgroup, POLICY).into(),
            };
            let compiled = compile(&[source], "host", 0).unwrap();
            assert!(compiled.warnings.all.is_empty(), "{:?}", compiled.warnings);
        }
    }
}
