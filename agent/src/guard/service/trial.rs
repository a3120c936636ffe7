//! Policies on trial, done: what an operator asks, what a start finds, and the deadline. What holds when is decided in
//! `guard::trial`. Each turn goes to the log, the audit file and `status`.
//!
//! The file comes first, then the policy: a guard that dies between the two goes back as one that dies after.

use std::io;
use std::time::Duration;

use imds_guard_core::audit;
use tokio::time::Instant;

use super::Guard;
use crate::control::{Answer, Ask};
use crate::guard::control::Asking;
use crate::guard::policy::Policy;
use crate::guard::trial::{Choice, Earlier, Kept, Now, Phase, Trial};
use crate::guard::{GuardError, Options};
use crate::sys::clock;

/// random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long after a failed return the next is tried.
const AGAIN: Duration = Duration::from_secs(10);

/// A turn of a trial, for the audit file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    change: &'static str,
    why: Option<String>,
}

impl Turn {
    fn to(change: &'static str) -> Self {
        Self { change, why: None }
    }

    fn because(self, why: impl Into<String>) -> Self {
        let why = Some(why.into());
        Self { why, ..self }
    }
}

/// The guard's policy on trial.
#[derive(Debug)]
pub(super) struct Trials {
    /// The one that has to be confirmed, or was not.
    pub(super) now: Option<Trial>,
    /// When going back is tried again, where it failed.
    back_at: Option<Instant>,
    kept: Kept,
    /// What the start made of it, until that is told.
    turn: Option<Turn>,
}

impl Trials {
    /// The policy that a start is to have, and how its trial stands.
    pub(super) fn begin(options: &Options) -> Result<(Policy, Self), GuardError> {
        let kept = Kept::new(&options.state_dir);
        let begun = Begun::with(options, &kept)?;
        let trials = Self {
            now: begun.trial,
            back_at: None,
            kept,
            turn: begun.turn,
        };
        Ok((begun.policy, trials))
    }
}

/// What a start begins with.
#[derive(Debug)]
struct Begun {
    policy: Policy,
    trial: Option<Trial>,
    turn: Option<Turn>,
}

fn now() -> Result<Now, GuardError> {
    let boot = std::fs::read_to_string(BOOT_ID).map_err(|source| GuardError::Path {
        path: BOOT_ID.into(),
        source,
        remedy: "mount /proc",
    })?;
    Ok(Now {
        boot: boot.trim().to_owned(),
        since_boot: clock::since_boot(),
    })
}

impl Begun {
    /// The policy of the files, or the earlier one, as the trial's file says.
    fn with(options: &Options, kept: &Kept) -> Result<Self, GuardError> {
        let files = || Ok(Policy::load(&options.config, 1)?);
        let trial = match kept.load() {
            Ok(Some(trial)) => trial,
            Ok(None) => return Ok(Self::by(files()?)),
            Err(why) => {
                tracing::error!(
                    "what would bring the policy of before back is damaged ({why}): the policy of the files is in force, for good; look at it, and reload what you want"
                );
                if let Err(error) = kept.set_aside() {
                    tracing::error!(%error, "and it can't be moved aside");
                }
                let turn = Some(Turn::to("lost").because(why));
                return Ok(Self {
                    turn,
                    ..Self::by(files()?)
                });
            }
        };
        Self::of_trial(files(), trial, &now()?)
    }

    fn by(policy: Policy) -> Self {
        Self {
            policy,
            trial: None,
            turn: None,
        }
    }

    fn of_trial(
        files: Result<Policy, GuardError>,
        mut trial: Trial,
        now: &Now,
    ) -> Result<Self, GuardError> {
        let digest = files.as_ref().ok().map(|policy| policy.digest.clone());
        let choice = trial.at_start(digest.as_deref(), now);
        let (policy, turn) = match choice {
            Choice::Files => (files?, Turn::to("left")),
            Choice::FilesOnTrial => {
                trial.digest = digest.unwrap_or_default();
                (files?, Turn::to("continued"))
            }
            Choice::GoBack | Choice::StayBack => match Policy::of(trial.earlier.sources(), 1) {
                Ok(earlier) => {
                    let errors = files.err().map(|error| error.to_string());
                    let why = errors.map(|why| format!("the files have errors: {why}"));
                    let change = "went_back";
                    (earlier, Turn { change, why })
                }
                // Another version, to which what was accepted once has errors.
                Err(error) => {
                    tracing::error!("the earlier policy can't come back: {error}");
                    let turn = Turn::to("lost").because(error.to_string());
                    (files?, turn)
                }
            },
        };
        if turn.change == "lost" {
            return Ok(Self {
                turn: Some(turn),
                ..Self::by(policy)
            });
        }
        if choice == Choice::StayBack {
            tracing::warn!(
                digest = trial.digest,
                "the policy that nobody confirmed stays back, the earlier one is in force; `imds-guard reload` takes the files"
            );
        }
        if choice == Choice::GoBack {
            trial.phase = Phase::WentBack {
                at: said(clock_now()),
            };
        }
        Ok(Self {
            policy,
            trial: Some(trial),
            turn: (choice != Choice::StayBack).then_some(turn),
        })
    }
}

fn clock_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn said(time: jiff::Timestamp) -> String {
    // Nobody confirms by the nanosecond.
    let whole = jiff::Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}

impl Guard {
    /// Tells, and keeps, what the start made of a trial.
    pub(super) fn tell_of_start(&mut self) {
        let Some(turn) = self.trials.turn.take() else {
            return;
        };
        let ended = turn.change == "left";
        self.turned(&turn);
        match (&self.trials.now, ended) {
            (Some(_), true) => self.forget_trial(),
            (Some(trial), false) => {
                if let Err(error) = self.trials.kept.keep(trial) {
                    tracing::error!(%error, "how the trial stands can't be written");
                }
            }
            (None, _) => {}
        }
    }

    /// Somebody with root's power asks something.
    pub(super) fn asked(&mut self, asking: io::Result<Asking>) {
        let done = asking.and_then(|asking| {
            let ask = asking.read()?;
            let outcome = match ask {
                Ask::Reload {
                    confirm_within_s: Some(seconds),
                } => self.try_out(Duration::from_secs(seconds)),
                Ask::Reload {
                    confirm_within_s: None,
                } => self.reload_for_good(),
                Ask::Confirm => self.confirm(),
                Ask::Revoke { workload } => self.revoke(workload.as_deref()),
            };
            let (done, told) = match outcome {
                Ok(told) => (true, told),
                Err(told) => (false, told),
            };
            asking.answer(&Answer { done, told })
        });
        if let Err(error) = done {
            tracing::warn!(%error, "somebody who asked at the control socket has no answer");
        }
    }

    /// SIGHUP, which says nothing about a trial.
    pub(super) fn read_again(&mut self) -> Result<(), GuardError> {
        let policy = self.of_the_files()?;
        let digest = policy.digest.clone();
        match self
            .trials
            .now
            .as_ref()
            .map(|trial| trial.at_hangup(&digest))
        {
            None => self.adopt(policy),
            Some(Choice::FilesOnTrial) => {
                self.adopt(policy)?;
                self.goes_on(digest);
                Ok(())
            }
            Some(Choice::StayBack | Choice::GoBack) => {
                tracing::warn!(
                    "the files still hold the policy that nobody confirmed ({digest}): the earlier one stays; `imds-guard reload` takes them"
                );
                Ok(())
            }
            Some(Choice::Files) => {
                self.adopt(policy)?;
                self.turned(&Turn::to("left"));
                self.forget_trial();
                Ok(())
            }
        }
    }

    /// Other files than those that the trial began with.
    fn goes_on(&mut self, digest: String) {
        let Some(trial) = &mut self.trials.now else {
            return;
        };
        if trial.digest == digest {
            return;
        }
        trial.digest = digest;
        if let Err(error) = self.trials.kept.keep(trial) {
            tracing::error!(%error, "which policy is on trial can't be written");
        }
        self.turned(&Turn::to("continued"));
    }

    fn reload_for_good(&mut self) -> Result<String, String> {
        if let Some(Trial {
            phase: Phase::Pending { shown, .. },
            ..
        }) = &self.trials.now
        {
            return Err(format!(
                "a policy is on trial until {shown}: `imds-guard confirm` keeps it, `imds-guard reload --confirm-within TIME` tries what the files hold now"
            ));
        }
        self.reloading(|guard| {
            let policy = guard.of_the_files()?;
            guard.adopt(policy)?;
            if guard.trials.now.is_some() {
                guard.turned(&Turn::to("left"));
                guard.forget_trial();
            }
            Ok(())
        })?;
        Ok(self.in_force("in force"))
    }

    fn in_force(&self, how: &str) -> String {
        let policy = &self.answers.policy;
        format!("policy {} (epoch {}) is {how}", policy.digest, policy.epoch)
    }

    fn try_out(&mut self, within: Duration) -> Result<String, String> {
        self.reloading(|guard| {
            let policy = guard.of_the_files()?;
            let before = guard.trials.now.clone();
            let trial = guard.trial_of(&policy, within)?;
            guard.keep(&trial)?;
            if let Err(error) = guard.adopt(policy) {
                match &before {
                    Some(before) => guard.keep(before)?,
                    None => guard.forget_trial(),
                }
                return Err(error);
            }
            guard.trials.now = Some(trial);
            guard.turned(&Turn::to("begun"));
            Ok(())
        })?;
        let until = self
            .trials
            .now
            .as_ref()
            .and_then(|trial| trial.told().until);
        let until = until.unwrap_or_default();
        Ok(self.in_force(&format!(
            "in force until {until}; `imds-guard confirm` keeps it, else the earlier one comes back"
        )))
    }

    /// The trial of a policy. What was never confirmed isn't what one goes back to.
    fn trial_of(&self, policy: &Policy, within: Duration) -> Result<Trial, GuardError> {
        let Now { boot, since_boot } = now()?;
        let earlier = match &self.trials.now {
            Some(trial) => trial.earlier.clone(),
            None => earlier(&self.answers.policy),
        };
        let until = i64::try_from(within.as_secs()).unwrap_or(0);
        let shown = jiff::SignedDuration::from_secs(until);
        Ok(Trial {
            digest: policy.digest.clone(),
            phase: Phase::Pending {
                boot,
                until: since_boot + within,
                shown: said(clock_now().saturating_add(shown).unwrap_or(clock_now())),
            },
            earlier,
        })
    }

    fn keep(&self, trial: &Trial) -> Result<(), GuardError> {
        self.trials.kept.keep(trial).map_err(|source| GuardError::Path {
            path: self.options.state_dir.clone(),
            source,
            remedy: "without a place for the earlier policy nothing is tried out: make it writable for root, or free some space",
        })
    }

    fn confirm(&mut self) -> Result<String, String> {
        // Whoever comes in the moment after the deadline is too late.
        self.look_at_trial();
        match &self.trials.now {
            Some(trial) if trial.waits() => {}
            Some(trial) => {
                let at = trial.told().went_back.unwrap_or_default();
                return Err(format!(
                    "too late: nobody confirmed it, and at {at} the earlier policy came back; `imds-guard reload` takes the files"
                ));
            }
            None => return Err("nothing waits for a confirmation".to_owned()),
        }
        let gone = self.trials.kept.forget();
        gone.map_err(|error| {
            format!("not confirmed: what brings the earlier policy back can't be removed: {error}")
        })?;
        self.turned(&Turn::to("confirmed"));
        self.trials.now = None;
        self.tell_status(None);
        Ok(self.in_force("confirmed"))
    }

    /// Whether the deadline has passed; then the earlier policy comes back. Several times a second.
    pub(super) fn look_at_trial(&mut self) {
        let Some(trial) = self.trials.now.as_ref().filter(|trial| trial.waits()) else {
            return;
        };
        let is_over = now().is_ok_and(|now| trial.is_over(&now));
        if !is_over || self.trials.back_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let sources = trial.earlier.sources();
        let returned = self.reloading(|guard| {
            let policy = Policy::of(sources, guard.answers.policy.epoch + 1)?;
            guard.adopt(policy)?;
            guard.gone_back();
            Ok(())
        });
        self.trials.back_at = returned.is_err().then(|| Instant::now() + AGAIN);
    }

    fn gone_back(&mut self) {
        let Some(trial) = &mut self.trials.now else {
            return;
        };
        trial.phase = Phase::WentBack {
            at: said(clock_now()),
        };
        if let Err(error) = self.trials.kept.keep(trial) {
            // The file says that it is on trial, until then: a start finds that out again.
            tracing::error!(%error, "that the policy went back can't be written");
        }
        self.turned(&Turn::to("went_back"));
    }

    fn forget_trial(&mut self) {
        self.trials.now = None;
        if let Err(error) = self.trials.kept.forget() {
            tracing::error!(%error, "the trial's file can't be removed: the next start takes the earlier policy again");
        }
    }

    /// Log and audit file.
    fn turned(&mut self, turn: &Turn) {
        let told = self.trials.now.as_ref().map(Trial::told);
        let Turn { change, why } = turn;
        let epoch = self.answers.policy.epoch;
        let until = told.as_ref().and_then(|trial| trial.until.as_deref());
        let digest = told.as_ref().map(|trial| trial.digest.as_str());
        let earlier = told.as_ref().map(|trial| trial.earlier.as_str());
        tracing::warn!(
            change,
            digest,
            earlier,
            until,
            why,
            epoch,
            "policy on trial"
        );
        let written = self.answers.audit.trial(audit::Trial {
            time: clock_now(),
            change,
            digest,
            earlier,
            until,
            why: why.as_deref(),
            epoch,
        });
        if let Err(error) = written {
            tracing::error!(%error, "the audit record of that can't be written");
        }
    }
}

fn earlier(policy: &Policy) -> Earlier {
    let of = |source: &imds_guard_core::policy::Source| {
        (source.name.to_string(), source.text.to_string())
    };
    Earlier {
        digest: policy.digest.clone(),
        files: policy.sources().iter().map(of).collect(),
    }
}
