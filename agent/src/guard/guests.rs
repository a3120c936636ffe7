//! Guests, as the loop sees them: kept in step with the interfaces, the policy and the packet filter, and handed to the proxy.

use std::os::fd::AsFd;

use imds_guard_core::seam::{self, Answer};

use super::service::Guard;
use crate::intercept::guests::{Change, Opened};
use crate::intercept::{DriftChange, Finding};
use crate::sys::scm;

/// Guests in one message: each has two listeners at most.
const AT_ONCE: usize = scm::MAX_FDS / 2;

impl Guard {
    /// Looks which guests are there, and makes rules, listeners and the proxy agree with that.
    pub(super) fn update_guests(&mut self) {
        let policy = &self.answers.policy;
        let (configured, enforced) = (&policy.settings.guests, policy.enforced());
        let updated = self.answers.guests.update(configured, &enforced);
        let failed = updated.as_ref().err().filter(|_| !configured.is_empty());
        let noted = self.answers.guests.noted(failed);
        noted.leave(&self.options.run_dir);
        match updated {
            Ok(update) => {
                if !update.closed.is_empty() {
                    tracing::info!(guests = update.closed.len(), "guests are gone or elsewhere");
                }
                if !update.opened.is_empty() {
                    tracing::info!(guests = update.opened.len(), "guests are served");
                    self.push_guests(Some(&update.opened));
                }
            }
            Err(error) => tracing::error!(
                "no guest is served, and traffic that only passes through this host is not guarded unless an earlier run saw to it: {error}"
            ),
        }
    }

    /// Something has changed that may concern guests.
    pub(super) fn guests_changed(&mut self, change: std::io::Result<Change>) {
        match change {
            Ok(Change::Links) => self.update_guests(),
            Ok(Change::Rules) => {
                self.look_at_rules();
                self.look_at_guests_rules();
            }
            Err(error) => tracing::error!(%error, "changes of interfaces can't be heard"),
        }
    }

    fn look_at_guests_rules(&mut self) {
        let failed = match self.answers.guests.reassert() {
            Ok(false) => return,
            Ok(true) => {
                tracing::error!(
                    "somebody has changed or removed the packet filter's table imds_guard: put back. Until now guests could pass by; find out who flushes rules"
                );
                None
            }
            Err(error) => Some(error.to_string()),
        };
        self.drifted(&Finding {
            what: "guests".to_owned(),
            change: DriftChange::Rules,
            failed,
        });
    }

    /// Hands guests to the proxy: those of `keys`, or all.
    pub(super) fn push_guests(&mut self, keys: Option<&[u32]>) {
        if self.seam.is_none() {
            return;
        }
        let opened: Vec<Opened<'_>> = self.answers.guests.opened(keys).collect();
        let messages = opened
            .chunks(AT_ONCE)
            .map(message)
            .collect::<Result<Vec<_>, _>>();
        let posted = messages
            .map_err(|error| error.to_string())
            .and_then(|messages| {
                let mut post = |(answer, fds)| self.post(&answer, fds);
                messages.into_iter().try_for_each(&mut post)
            });
        if let Err(why) = posted {
            self.close_seam(&why);
        }
    }
}

/// The message about some guests, and their listeners.
fn message(some: &[Opened<'_>]) -> std::io::Result<(Answer, Vec<std::os::fd::OwnedFd>)> {
    let guests = some.iter().map(|opened| seam::Guest {
        key: opened.key,
        id: opened.id.clone(),
        interface: opened.interface.clone(),
        listeners: u8::try_from(opened.listeners.len()).unwrap_or(u8::MAX),
    });
    let guests = guests.collect();
    let fds = some.iter().flat_map(|opened| &opened.listeners);
    let fds = fds.map(|fd| fd.as_fd().try_clone_to_owned());
    Ok((
        Answer::Guests(seam::Guests { guests }),
        fds.collect::<Result<_, _>>()?,
    ))
}
