//! A reload: all of the new configuration, or nothing of it. Must never leave the guard without a policy, and never let a
//! proxy go on by the old one once the new one is in force.

use imds_guard_core::seam::Answer;
use sd_notify::NotifyState;

use super::Guard;
use crate::guard::notify::notify;
use crate::guard::outbound::Outbound;
use crate::guard::policy::Policy;
use crate::guard::{GuardError, now};
use crate::issuer::Issuer;
use crate::notify::alive;

impl Guard {
    /// SIGHUP: a new policy, or none: whatever is wrong with the files, the last good policy stays.
    pub(super) fn reload(&mut self) {
        self.reloading(Self::read_again).ok();
    }

    /// What every reload has around it; the outcome is told, in the log and for `status`, and returned as text.
    pub(super) fn reloading(
        &mut self,
        with: impl FnOnce(&mut Self) -> Result<(), GuardError>,
    ) -> Result<(), String> {
        notify(&[
            NotifyState::Reloading,
            NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0)),
        ]);
        self.reopen_audit();
        let done = with(self).map_err(|error| error.to_string());
        if let Err(why) = &done {
            tracing::error!(
                "the reload is refused, the policy of epoch {} stays in force:\n{why}",
                self.answers.policy.epoch
            );
        }
        let first_line = |why: &String| why.lines().next().unwrap_or_default().to_owned();
        self.tell_status(done.as_ref().err().map(first_line));
        alive();
        done
    }

    /// The policy of the files, as the next epoch.
    pub(super) fn of_the_files(&self) -> Result<Policy, GuardError> {
        let next = self.answers.policy.epoch + 1;
        let loaded = Policy::load(&self.options.config, next);
        // Each part of a reload has its time, and nft gives signs of its own.
        alive();
        Ok(loaded?)
    }

    /// Whatever becomes of the policy, for who rotates logs may know of this signal alone. SIGUSR1 asks for no more than this.
    pub(super) fn reopen_audit(&mut self) {
        let reopened = self.answers.audit.reopen().and_then(|anew| {
            let fd = anew.then(|| self.answers.audit.fd().try_clone_to_owned());
            fd.transpose()
        });
        match reopened {
            Ok(None) => {}
            Ok(Some(fd)) => {
                if self.seam.is_some()
                    && let Err(why) = self.post(&Answer::Audit, vec![fd])
                {
                    self.close_seam(&why);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the audit file can't be opened anew: records go where they went");
            }
        }
    }

    pub(super) fn adopt(&mut self, policy: Policy) -> Result<(), GuardError> {
        let outbound = Outbound::read(&policy)?;
        self.adopt_settings(&policy)?;
        self.answers.interceptor.set_lifelines(policy.lifelines());
        alive();
        self.answers.attestor.wants_hash(policy.wants_hash);
        tracing::info!(epoch = policy.epoch, digest = %policy.digest, "policy reloaded");
        self.answers.policy = policy;
        self.outbound = outbound;
        // The way out first: the policy may need it.
        if self.seam.is_some()
            && let Err(why) = self.push_outbound().and_then(|()| self.push_policy())
        {
            // It must not go on by the old policy.
            self.close_seam(&why);
        }
        self.update_guests();
        self.end_older_everywhere();
        Ok(())
    }

    fn adopt_settings(&mut self, policy: &Policy) -> Result<(), GuardError> {
        let (old, new) = (&self.answers.policy.settings, &policy.settings);
        let listen =
            |s: &imds_guard_core::policy::Settings| s.issuer.as_ref().and_then(|i| i.listen);
        if listen(old) != listen(new) {
            tracing::warn!("[issuer] listen has changed: it takes effect at the next start");
        }
        if let (None, Some(issuer)) = (&self.answers.issuer, &new.issuer) {
            let opened = Issuer::open(issuer, &self.options.state_dir, now())?;
            self.answers.issuer = Some(opened);
        }
        self.answers
            .interceptor
            .set_endpoints(&policy.endpoints())?;
        match (&mut self.answers.issuer, &new.issuer) {
            (Some(issuer), Some(settings)) => issuer.configure(settings),
            (issuer, _) => *issuer = None,
        }
        Ok(())
    }
}
