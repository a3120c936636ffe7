//! The credential broker: one token per (workload, identity, subject, audience, epoch), fetched once however many ask for it,
//! renewed ahead of its end, and served only while it is valid. A refusal is never kept; another failure only for a moment.
//!
//! It decides nothing: whoever asks has a `Permit` already, and the key is made of what the permit says. It knows no source
//! of credentials either; the caller brings the one that its grant names.
//!
//! Two ways to ask. [`Broker::get`]: the source looks at who asks, so whoever asks waits for its own answer. [`Broker::obtain`]
//! (`shared.rs`): it doesn't, so one flight is everybody's, goes on without whoever gave up, and renews while callers are
//! served what there is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

mod shared;

pub(crate) use shared::Missed;

/// For whom and for what a credential is. A changed policy is another epoch: what was fetched under the old one is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The workload's name.
    pub(crate) workload: Arc<str>,
    /// The identity's name.
    pub(crate) identity: Arc<str>,
    /// The `sub` that it is issued to. One workload by template is many callers, each with a `sub` of its own: without it
    /// in the key, one tenant would get the token of another.
    pub(crate) subject: Arc<str>,
    /// The canonical audience or resource.
    pub(crate) audience: Arc<str>,
    /// Of the policy.
    pub(crate) epoch: u64,
}

/// Something with an end.
pub(crate) trait Credential {
    /// Unix seconds from which it is good.
    fn issued(&self) -> i64;
    /// Unix seconds at which it ends.
    fn expires(&self) -> i64;
    /// Seconds that it should have left when it is given, where there is a newer one to be had.
    fn least(&self) -> i64 {
        0
    }
}

/// Why a source gave none.
pub(crate) trait Failure: Clone {
    /// Whether the next one to ask would fare the same for a while, so that it is told so at once. Never true for a refusal:
    /// that one was about one caller.
    fn is_general(&self) -> bool;
    /// For how long, where it is.
    fn lasts(&self) -> Duration {
        FAILURE_KEPT
    }
}

/// Credentials kept at once.
pub(crate) const KEPT: usize = 4096;
/// How long a general failure is repeated to others without asking again.
pub(crate) const FAILURE_KEPT: Duration = Duration::from_millis(500);
/// Renewal starts when this share of the lifetime is left, in percent: chosen per credential between these, so that
/// those fetched together are not renewed together.
const RENEW_LEFT: std::ops::Range<i64> = 20..30;

/// And so much of the lifetime before there is too little left of it, in percent.
const LEAST_BEFORE: i64 = 5;

/// What a credential should have left when it is given: of one that doesn't live long, half its life.
fn least<T: Credential>(credential: &T) -> i64 {
    let half = (credential.expires() - credential.issued()) / 2;
    credential.least().min(half).max(0)
}

/// All credentials.
#[derive(Debug)]
pub(crate) struct Broker<T, E> {
    slots: RefCell<HashMap<Key, Rc<Slot<T, E>>>>,
    jitter: RandomState,
}

#[derive(Debug)]
struct Slot<T, E> {
    /// Held by the one that fetches.
    flight: Mutex<()>,
    /// One that is everybody's.
    flying: RefCell<Option<shared::Flying<T, E>>>,
    kept: RefCell<Option<Kept<T>>>,
    failed: RefCell<Option<(Instant, E)>>,
}

#[derive(Debug)]
struct Kept<T> {
    credential: Rc<T>,
    fetched: Instant,
    renew_at: i64,
}

impl<T, E> Default for Slot<T, E> {
    fn default() -> Self {
        Self {
            flight: Mutex::new(()),
            flying: RefCell::new(None),
            kept: RefCell::new(None),
            failed: RefCell::new(None),
        }
    }
}

/// How a credential came to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// It was there.
    Cache,
    /// It was there, and a newer one was asked for first, which the source couldn't give: that took time.
    Instead,
    /// It was fetched for this request, or for one that asked at the same time.
    Source,
}

impl Via {
    /// Whether the caller had to wait for a source, so that it may be another by now.
    pub(crate) const fn took_time(self) -> bool {
        !matches!(self, Self::Cache)
    }

    /// Whether it is an older one than this request.
    pub(crate) const fn is_cached(self) -> bool {
        !matches!(self, Self::Source)
    }
}

impl<T: Credential, E: Failure> Broker<T, E> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self {
            slots: RefCell::default(),
            jitter: RandomState::new(),
        }
    }

    /// The credential for `key`. `now` is Unix time in seconds; `fresh` means that one fetched before this call won't do.
    pub(crate) async fn get(
        &self,
        key: Key,
        fresh: bool,
        now: i64,
        fetch: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<(Rc<T>, Via), E> {
        let asked = Instant::now();
        let slot = self.slot(key, now);
        if !fresh && let Some((credential, renew)) = slot.valid(now) {
            // Ahead of its end one caller renews, the others go on with what there is.
            let renew = renew && slot.failed_lately().is_none();
            let Some(_flight) = renew.then(|| slot.flight.try_lock().ok()).flatten() else {
                return Ok((credential, Via::Cache));
            };
            return match self.fetch(&slot, fetch).await {
                Ok(renewed) => Ok((renewed, Via::Source)),
                Err(failure) if failure.is_general() => Ok((credential, Via::Instead)),
                // The source says no to this very caller: what is kept for others is not for it.
                Err(refusal) => Err(refusal),
            };
        }
        let _flight = slot.flight.lock().await;
        if let Some(credential) = slot.fetched_since(asked, now, fresh) {
            return Ok((credential, Via::Source));
        }
        if let Some(failure) = slot.failed_lately() {
            return Err(failure);
        }
        let fetched = self.fetch(&slot, fetch).await?;
        Ok((fetched, Via::Source))
    }

    async fn fetch(
        &self,
        slot: &Slot<T, E>,
        fetch: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Rc<T>, E> {
        self.kept(slot, fetch().await)
    }

    /// Keeps what a source gave, or that it gave nothing.
    fn kept(&self, slot: &Slot<T, E>, fetched: Result<T, E>) -> Result<Rc<T>, E> {
        match fetched {
            Ok(credential) => {
                let credential = Rc::new(credential);
                *slot.failed.borrow_mut() = None;
                *slot.kept.borrow_mut() = Some(Kept {
                    renew_at: self.renew_at(&*credential),
                    fetched: Instant::now(),
                    credential: Rc::clone(&credential),
                });
                Ok(credential)
            }
            Err(failure) => {
                if failure.is_general() {
                    *slot.failed.borrow_mut() = Some((Instant::now(), failure.clone()));
                }
                Err(failure)
            }
        }
    }

    /// Early enough for a renewal to be there before less than [`Credential::least`] is left.
    fn renew_at(&self, credential: &T) -> i64 {
        let (issued, expires) = (credential.issued(), credential.expires());
        let lifetime = (expires - issued).max(0);
        let spread = RENEW_LEFT.end - RENEW_LEFT.start;
        let chance = self.jitter.hash_one((issued, expires, Instant::now())) >> 1;
        let chance = chance.cast_signed() % spread;
        let share = lifetime * (RENEW_LEFT.start + chance) / 100;
        let before = least(credential) + lifetime * (LEAST_BEFORE + chance) / 100;
        expires - share.max(before)
    }

    fn slot(&self, key: Key, now: i64) -> Rc<Slot<T, E>> {
        let mut slots = self.slots.borrow_mut();
        if slots.len() >= KEPT && !slots.contains_key(&key) {
            slots.retain(|_, slot| Rc::strong_count(slot) > 1 || slot.valid(now).is_some());
            if slots.len() >= KEPT {
                // Nothing has ended: not keeping this one costs its workload a fetch each time, and nobody else anything.
                return Rc::default();
            }
        }
        Rc::clone(slots.entry(key).or_default())
    }

    /// Forgets what is kept for `key`: its source says that it is good for nothing.
    pub(crate) fn forget(&self, key: &Key) {
        self.slots.borrow_mut().remove(key);
    }

    /// Forgets what is kept for this workload, whatever it is good for.
    pub(crate) fn revoke(&self, workload: &str) {
        let mut slots = self.slots.borrow_mut();
        slots.retain(|key, _| &*key.workload != workload);
    }

    /// Forgets everything: the policy has changed.
    pub(crate) fn clear(&self) {
        self.slots.borrow_mut().clear();
    }
}

impl<T: Credential, E: Failure> Slot<T, E> {
    /// What is kept, if it is valid, and whether it is time to renew it.
    fn valid(&self, now: i64) -> Option<(Rc<T>, bool)> {
        let kept = self.kept.borrow();
        let kept = kept.as_ref().filter(|k| k.credential.expires() > now)?;
        Some((Rc::clone(&kept.credential), now >= kept.renew_at))
    }

    /// What another flight has brought while we waited for ours.
    fn fetched_since(&self, asked: Instant, now: i64, fresh: bool) -> Option<Rc<T>> {
        let kept = self.kept.borrow();
        let kept = kept.as_ref().filter(|k| k.credential.expires() > now)?;
        (!fresh || kept.fetched > asked).then(|| Rc::clone(&kept.credential))
    }

    fn failed_lately(&self) -> Option<E> {
        let failed = self.failed.borrow();
        let (at, failure) = failed.as_ref()?;
        (at.elapsed() < failure.lasts()).then(|| failure.clone())
    }
}

#[cfg(test)]
mod tests;
