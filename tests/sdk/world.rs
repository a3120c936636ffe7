//! What the suites of real SDKs share: the demo's world with its policy, and what an answer has to look like.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use imds_guard_tests::cast::{self, Cast};
use imds_guard_tests::{AgentProcess, FakeAzure, Python, UPSTREAM_TOKEN, World, require};
use serde_json::Value;
use std::time::Duration;

/// A world in which the agent guards, with the demo's policy.
#[derive(Debug)]
pub(crate) struct Guarded<'w> {
    pub(crate) cast: Cast<'w>,
    pub(crate) python: Python,
    pub(crate) agent: AgentProcess,
    azure: FakeAzure,
}

/// A world, once the machine has what a guarded one needs.
pub(crate) fn world(name: &str) -> World {
    require!(Root, Cgroup2, Bpf, Agent);
    World::new(name).unwrap()
}

impl<'w> Guarded<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let policy = cast::policy(world).unwrap();
        Self {
            cast: Cast::of(world),
            python: Python::new(world).unwrap(),
            azure: world.azure().unwrap(),
            agent: world.agent().config(&policy).start().unwrap(),
        }
    }

    /// The outcomes and statuses of all exchanges so far, once there are `count`; and no more come within a moment, in
    /// which an SDK that tries again would have done so.
    pub(crate) fn endings(&self, count: usize) -> Vec<(String, u64)> {
        let audit = self.agent.audit();
        audit.wait_exchanges(count).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let ending = |record: &Value| {
            (
                record["outcome"].as_str().unwrap_or_default().to_owned(),
                record["status"].as_u64().unwrap_or_default(),
            )
        };
        audit.exchanges().unwrap().iter().map(ending).collect()
    }

    /// A token that Key Vault's stand-in accepts, with its claims; and nothing of the real service's.
    pub(crate) fn claims(&self, answer: &Value) -> Value {
        assert_eq!(answer["ok"], true, "{answer}\n{}", self.agent.log());
        let token = answer["token"].as_str().unwrap();
        assert_ne!(token, UPSTREAM_TOKEN);
        let verdict = self
            .python
            .verify(&self.cast.vault, cast::ISSUER, cast::VAULT, token)
            .unwrap();
        assert_eq!(verdict["accepted"], true, "{verdict}");
        let believed = answer["expires_on"].as_i64().unwrap();
        let expires = verdict["claims"]["exp"].as_i64().unwrap();
        // SDKs compute it from whole seconds and their own clock.
        assert!((believed - expires).abs() <= 2, "{believed} {expires}");
        verdict["claims"].clone()
    }

    /// Refused: the reason is shown, the client gave up at once, and the real service heard nothing.
    pub(crate) fn refused(&self, answer: &Value, reason: &str) {
        assert_eq!(answer["ok"], false, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("Refused by imds-guard"), "{error}");
        assert!(error.contains(reason), "{error}");
        // SDKs take 403 with this word for `no metadata service here`, and quietly go on.
        assert!(!error.contains("unreachable"), "{error}");
        assert!(answer["seconds"].as_f64().unwrap() < 1.5, "{answer}");
        assert_eq!(self.azure.received().len(), 0);
    }
}
