//! A policy on trial: in force until a deadline, and longer only if somebody confirms it; else the earlier one comes back. Which of
//! the two holds after each thing that may happen is decided here, purely; `kept` is what of it outlives the process, and
//! `service/trial.rs` does what is decided.
//!
//! Time is `CLOCK_BOOTTIME`: setting the clock changes no deadline, and a suspended machine's runs on. Another boot is past every
//! deadline: whoever has locked himself out may have rebooted for that very reason.
//!
//! Must never let a policy that was not confirmed come into force again by itself: not by a restart, and not by the SIGHUP of
//! whoever rotates logs.

use std::time::Duration;

use imds_guard_core::policy::Source;
use serde::{Deserialize, Serialize};

use crate::status;

mod kept;

pub(super) use kept::Kept;

/// What has to outlive the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    /// Digest of the policy on trial, or that was.
    pub(super) digest: String,
    /// How it stands.
    pub(super) phase: Phase,
    /// What was in force before, or is again.
    pub(super) earlier: Earlier,
}

/// How a trial stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Phase {
    /// The new policy is in force until then.
    Pending {
        /// Of this boot alone.
        boot: String,
        /// `CLOCK_BOOTTIME`.
        until: Duration,
        /// The same, RFC 3339, as the clock said when it began: for people.
        shown: String,
    },
    /// Nobody confirmed it. The earlier policy is in force, until somebody reloads or the files are others.
    WentBack {
        /// When, RFC 3339: for people.
        at: String,
    },
}

/// A policy that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Earlier {
    /// Its digest.
    pub(super) digest: String,
    /// Its files: name and text, the main one first.
    pub(super) files: Vec<(String, String)>,
}

impl Earlier {
    /// Its files as the compiler takes them.
    pub(super) fn sources(&self) -> Vec<Source> {
        let of = |(name, text): &(String, String)| Source {
            name: name.as_str().into(),
            text: text.as_str().into(),
        };
        self.files.iter().map(of).collect()
    }
}

/// Now, as trials see it.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// Of this boot alone.
    pub(super) boot: String,
    /// `CLOCK_BOOTTIME`.
    pub(super) since_boot: Duration,
}

/// Which policy is to be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// That of the files; the trial is over.
    Files,
    /// That of the files; the trial goes on.
    FilesOnTrial,
    /// The earlier one, from now on.
    GoBack,
    /// The earlier one, still.
    StayBack,
}

impl Trial {
    /// Whether it waits for a confirmation that can still come.
    pub(super) fn is_pending(&self, now: &Now) -> bool {
        match &self.phase {
            Phase::Pending { boot, until, .. } => *boot == now.boot && now.since_boot < *until,
            Phase::WentBack { .. } => false,
        }
    }

    /// Whether it waits for a confirmation, be it in time or not.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Pending { .. })
    }

    /// For `imds-guard status`.
    pub(super) fn told(&self) -> status::Trial {
        let (until, went_back) = match &self.phase {
            Phase::Pending { shown, .. } => (Some(shown.clone()), None),
            Phase::WentBack { at } => (None, Some(at.clone())),
        };
        status::Trial {
            digest: self.digest.clone(),
            earlier: self.earlier.digest.clone(),
            until,
            went_back,
        }
    }

    /// Whether the earlier policy has to come back now.
    pub(super) fn is_over(&self, now: &Now) -> bool {
        self.waits() && !self.is_pending(now)
    }

    /// Which policy a start is to have. `files`: the digest of those on disk; `None`: they have errors.
    pub(super) fn at_start(&self, files: Option<&str>, now: &Now) -> Choice {
        match (&self.phase, files) {
            (Phase::Pending { .. }, Some(_)) if self.is_pending(now) => Choice::FilesOnTrial,
            // Also where the files on trial have been made bad meanwhile: better now than never.
            (Phase::Pending { .. }, _) => Choice::GoBack,
            (Phase::WentBack { .. }, Some(digest)) if digest != self.digest => Choice::Files,
            (Phase::WentBack { .. }, _) => Choice::StayBack,
        }
    }

    /// Which policy SIGHUP is to bring, whose sender may only want the audit file opened anew. `files`: their digest.
    pub(super) fn at_hangup(&self, files: &str) -> Choice {
        match self.phase {
            Phase::Pending { .. } => Choice::FilesOnTrial,
            Phase::WentBack { .. } if files == self.digest => Choice::StayBack,
            Phase::WentBack { .. } => Choice::Files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(boot: &str, seconds: u64) -> Now {
        Now {
            boot: boot.into(),
            since_boot: Duration::from_secs(seconds),
        }
    }

    fn pending() -> Trial {
        Trial {
            digest: "new".into(),
            phase: Phase::Pending {
                boot: "this".into(),
                until: Duration::from_secs(100),
                shown: "soon".into(),
            },
            earlier: Earlier {
                digest: "old".into(),
                files: vec![("main.toml".into(), "x".into())],
            },
        }
    }

    fn went_back() -> Trial {
        let phase = Phase::WentBack { at: "then".into() };
        Trial { phase, ..pending() }
    }

    #[test]
    fn it_is_pending_until_its_deadline_and_on_its_boot_alone() {
        assert!(pending().is_pending(&now("this", 99)) && !pending().is_over(&now("this", 99)));
        for later in [now("this", 100), now("other", 1)] {
            assert!(!pending().is_pending(&later) && pending().is_over(&later));
        }
        assert!(!went_back().is_pending(&now("this", 1)) && !went_back().is_over(&now("this", 1)));
    }

    #[test]
    fn a_start_keeps_the_trial_or_goes_back_and_never_takes_what_was_rejected() {
        let (before, after) = (now("this", 99), now("this", 100));
        assert_eq!(
            pending().at_start(Some("new"), &before),
            Choice::FilesOnTrial
        );
        assert_eq!(
            pending().at_start(Some("third"), &before),
            Choice::FilesOnTrial
        );
        assert_eq!(pending().at_start(None, &before), Choice::GoBack);
        assert_eq!(pending().at_start(Some("new"), &after), Choice::GoBack);
        assert_eq!(
            pending().at_start(Some("new"), &now("other", 1)),
            Choice::GoBack
        );
        assert_eq!(went_back().at_start(Some("new"), &after), Choice::StayBack);
        assert_eq!(went_back().at_start(None, &after), Choice::StayBack);
        assert_eq!(went_back().at_start(Some("third"), &after), Choice::Files);
    }

    #[test]
    fn a_hangup_neither_confirms_nor_brings_back_what_was_rejected() {
        assert_eq!(pending().at_hangup("new"), Choice::FilesOnTrial);
        assert_eq!(pending().at_hangup("third"), Choice::FilesOnTrial);
        assert_eq!(went_back().at_hangup("new"), Choice::StayBack);
        assert_eq!(went_back().at_hangup("third"), Choice::Files);
    }
}
