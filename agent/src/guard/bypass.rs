//! The loop's part in bypasses: tells of those that come and go, writes the end of those whose time is over, and ends what
//! connections they have left open. They end without it, in the kernel.

use super::service::Guard;
use crate::bypass::{scopes, tell};
use crate::intercept::bypasses::Live;
use crate::sys::clock;

impl Guard {
    /// What has become of bypasses since the last look. Several times a second.
    pub(super) fn look_at_bypasses(&mut self) {
        let table = self.answers.interceptor.bypasses();
        let all = match table.all(clock::since_boot()) {
            Ok(all) => all,
            Err(error) => return tracing::warn!(%error, "bypasses can't be looked at"),
        };
        let (over, live): (Vec<Live>, Vec<Live>) = all.into_iter().partition(|b| b.left_s == 0);
        let is_in = |all: &[Live], one: &Live| all.iter().any(|other| other.id == one.id);
        for new in live.iter().filter(|b| !is_in(&self.told.bypasses, b)) {
            let Live {
                id,
                name,
                reason,
                until,
                ..
            } = new;
            tracing::warn!(
                id,
                name,
                reason,
                until,
                "bypass: passes as if nothing were guarded"
            );
        }
        for over in &over {
            self.expired(over);
        }
        let gone = self
            .told
            .bypasses
            .iter()
            .any(|before| !is_in(&live, before));
        self.told.bypasses = live;
        if gone || !over.is_empty() {
            tracing::warn!("a bypass has ended: what it has left open is ended, too");
            self.end_older_everywhere();
        }
    }

    fn expired(&mut self, over: &Live) {
        let told = scopes::told(&over.scopes);
        let removed = self.answers.interceptor.bypasses().end(over);
        let written = tell(&mut self.answers.audit, "expired", over, &told);
        if let Err(error) = removed {
            tracing::error!(%error, "a bypass that is over can't be removed; nobody passes by it");
        }
        if let Err(error) = written {
            tracing::error!(%error, "the audit record of a bypass's end can't be written");
        }
    }
}
