//! What the guard tells of itself: to the service manager, for everybody who may ask that, and into the run directory, for
//! `imds-guard status`. Nothing rests on either.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use sd_notify::NotifyState;

use super::Guard;
use crate::doctor;
use crate::guard::notify::notify;
use crate::guard::policy::Policy;
use crate::guard::trial::Trial;
use crate::status::{InForce, Note};

impl Guard {
    /// Ready, or ready again after a reload, which was refused for that reason.
    pub(super) fn tell_status(&mut self, refused: Option<String>) {
        self.told.refused = refused;
        let pending = self.trials.now.as_ref().is_some_and(Trial::waits);
        let line = line(&self.answers.policy, self.told.refused.is_some(), pending);
        notify(&[NotifyState::Ready, NotifyState::Status(&line)]);
        self.leave_note();
    }

    /// For `imds-guard status` alone.
    pub(super) fn leave_note(&self) {
        let note = self.as_it_stands();
        if let Err(error) = note.leave(&self.options.run_dir) {
            tracing::warn!(%error, "can't note the state for `imds-guard status`");
        }
    }

    fn as_it_stands(&self) -> Note {
        let policy = &self.answers.policy;
        Note {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.since.to_string(),
            policy: InForce {
                file: self.options.config.clone(),
                epoch: policy.epoch,
                digest: policy.digest.clone(),
                workloads: policy.set.workload_count(),
                rules: policy.set.rules(),
            },
            audit: self.answers.audit.path().map(Into::into),
            names: names(policy),
            refused: self.told.refused.clone(),
            lifelines_used: self.told.lifelines_used,
            trial: self.trials.now.as_ref().map(Trial::told),
        }
    }
}

/// For `systemctl status`: which modes, which policy.
fn line(policy: &Policy, refused: bool, on_trial: bool) -> String {
    let endpoints = policy.endpoints();
    let all = endpoints.iter().map(|endpoint| {
        let address = SocketAddr::new(endpoint.address, endpoint.port);
        format!("{address} {}", doctor::word(endpoint.mode))
    });
    let all = all.collect::<Vec<_>>().join(", ");
    let word = if refused { ", last reload refused" } else { "" };
    let trial = if on_trial { ", to be confirmed" } else { "" };
    format!("policy epoch {}{trial}{word}; {all}", policy.epoch)
}

/// Names of endpoints by their addresses.
fn names(policy: &Policy) -> BTreeMap<SocketAddr, Vec<String>> {
    let mut names: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    for endpoint in &policy.settings.endpoints {
        for address in &endpoint.addresses {
            let of = names.entry(*address).or_default();
            of.push(endpoint.name.to_string());
        }
    }
    names
}
