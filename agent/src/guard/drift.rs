//! The loop's part in keeping things as they are: asks several times a second whether all is still in force, ends connections that
//! are older than that, and tells what it finds: in the audit file and in the log.

use std::net::SocketAddr;
use std::sync::Arc;

use super::service::Guard;
use crate::intercept::{Finding, Listeners};

impl Guard {
    /// Looks whether all of it is in force, and puts back what isn't.
    pub(super) fn look_for_drift(&mut self) {
        for finding in self.answers.interceptor.look_for_drift() {
            self.drifted(&finding);
        }
    }

    /// The packet filter's rules have changed, perhaps ours.
    pub(super) fn look_at_rules(&mut self) {
        if let Some(finding) = self.answers.interceptor.look_at_rules() {
            self.drifted(&finding);
        }
    }

    pub(super) fn drifted(&mut self, finding: &Finding) {
        tracing::error!("somebody has changed what is in force: {finding}");
        if let Err(error) = self.answers.audit.drifted(finding) {
            tracing::error!(%error, "the audit record of that can't be written");
        }
    }

    /// Ends connections to enforced endpoints in the namespace of these listeners, where some of before may be open.
    pub(super) fn end_older(&self, listeners: &Arc<Listeners>) {
        if let Some(older) = &self.older {
            older.end(listeners, &self.enforced());
        }
    }

    /// The same in all namespaces: an endpoint may be enforced that wasn't.
    pub(super) fn end_older_everywhere(&self) {
        let Some(older) = &self.older else { return };
        let enforced = self.enforced();
        for listeners in self.spaces.all().chain([&self.listeners]) {
            older.end(listeners, &enforced);
        }
    }

    fn enforced(&self) -> Arc<[SocketAddr]> {
        let enforced = self.answers.policy.enforced();
        let at = |e: &crate::intercept::GuardedEndpoint| {
            SocketAddr::new(e.address.to_canonical(), e.port)
        };
        enforced.iter().map(at).collect()
    }
}
