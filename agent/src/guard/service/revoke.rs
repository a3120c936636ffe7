//! An operator's word that what was given is given no more. Recorded before anything is done; the proxy does it.

use imds_guard_core::audit;
use imds_guard_core::seam::Answer;

use super::Guard;

impl Guard {
    /// Has the proxy end connections and forget what it keeps, of one workload or of all.
    pub(super) fn revoke(&mut self, workload: Option<&str>) -> Result<String, String> {
        let policy = &self.answers.policy;
        let unknown = |name: &&str| !policy.set.has_workload(name);
        if let Some(name) = workload.filter(unknown) {
            return Err(format!(
                "the policy in force has no workload `{name}`: `imds-guard status` names its file; nothing is revoked"
            ));
        }
        let written = self.answers.audit.revoked(audit::Revoked {
            time: jiff::Timestamp::now(),
            workload,
            epoch: policy.epoch,
        });
        if let Err(error) = written {
            // What was given has to end, all the same.
            tracing::error!(%error, "the audit record of a revocation can't be written");
        }
        let whose = workload.map_or_else(|| "everybody".into(), |name| format!("`{name}`"));
        if self.seam.is_none() {
            return Ok(format!(
                "no proxy runs, so no connection of {whose} is open, and nothing is kept"
            ));
        }
        let workload = workload.map(Into::into);
        if let Err(why) = self.post(&Answer::Revoke { workload }, vec![]) {
            // A proxy that can't be told ends, and with it what it keeps.
            self.close_seam(&why);
        }
        Ok(format!(
            "connections of {whose} are ended, and what was kept is dropped; whom the policy allows gets a new credential at the next request"
        ))
    }
}
