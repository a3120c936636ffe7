//! Credentials whose source doesn't look at who asks: one flight for everybody, which nobody's leaving ends.
//!
//! A caller waits for as long as its SDK would, and no longer; what it asked for comes all the same, and the next attempt finds
//! it. While what is kept is good for long enough, callers get it at once and a newer one is fetched behind their backs.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::{Broker, Credential, Failure, Key, Slot, Via, least};

type Landed<T, E> = Option<Result<Rc<T>, E>>;
/// A flight under way: what comes of it, once it has landed.
pub(super) type Flying<T, E> = watch::Receiver<Landed<T, E>>;

/// Why a caller has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missed<E> {
    /// The source didn't answer while it waited, and may still.
    Late,
    /// The source gave none.
    Failed(E),
}

/// How much of its life a credential has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Long,
    /// Enough to be given, and time to fetch a newer one.
    Ahead,
    /// Less than should be given, while there is a newer one to be had.
    Short,
}

impl<T: Credential + 'static, E: Failure + 'static> Broker<T, E> {
    /// The credential for `key`, waited for at most as long as `patience`. `now` is Unix time in seconds.
    pub(crate) async fn obtain<F>(
        self: &Rc<Self>,
        key: Key,
        now: i64,
        patience: Duration,
        fetch: impl FnOnce() -> F,
    ) -> Result<(Rc<T>, Via), Missed<E>>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let slot = self.slot(key, now);
        let kept = slot.life(now);
        match &kept {
            Some((credential, Life::Long)) => return Ok((Rc::clone(credential), Via::Cache)),
            Some((credential, Life::Ahead)) => {
                if slot.failed_lately().is_none() {
                    let _lands = self.fly(&slot, fetch);
                }
                return Ok((Rc::clone(credential), Via::Cache));
            }
            Some((_, Life::Short)) | None => {}
        }
        let landed = match slot.failed_lately() {
            Some(failure) => Err(Missed::Failed(failure)),
            None => landed(self.fly(&slot, fetch), patience).await,
        };
        match (landed, kept) {
            (Ok(credential), _) => Ok((credential, Via::Source)),
            // The source says no to all that it gave this to.
            (Err(Missed::Failed(refusal)), _) if !refusal.is_general() => {
                Err(Missed::Failed(refusal))
            }
            (Err(_), Some((credential, _))) => Ok((credential, Via::Instead)),
            (Err(missed), None) => Err(missed),
        }
    }

    /// The flight that is under way, or a new one.
    fn fly<F>(self: &Rc<Self>, slot: &Rc<Slot<T, E>>, fetch: impl FnOnce() -> F) -> Flying<T, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        if let Some(flying) = &*slot.flying.borrow() {
            return flying.clone();
        }
        let (land, flying) = watch::channel(None);
        *slot.flying.borrow_mut() = Some(flying.clone());
        let (broker, slot, fetched) = (Rc::clone(self), Rc::clone(slot), fetch());
        spawn_local(async move {
            let under_way = UnderWay(slot);
            let fetched = broker.kept(&under_way.0, fetched.await);
            if fetched.as_ref().is_err_and(|failure| !failure.is_general()) {
                *under_way.0.kept.borrow_mut() = None;
            }
            drop(under_way);
            land.send_replace(Some(fetched));
        });
        flying
    }
}

/// Until it is dropped, also by a panic of what flies.
struct UnderWay<T, E>(Rc<Slot<T, E>>);

impl<T, E> Drop for UnderWay<T, E> {
    fn drop(&mut self) {
        *self.0.flying.borrow_mut() = None;
    }
}

/// What comes of a flight, if it lands in time. One that never lands is late as well.
async fn landed<T, E: Clone>(
    mut flying: Flying<T, E>,
    patience: Duration,
) -> Result<Rc<T>, Missed<E>> {
    let landing = async {
        let landed = flying.wait_for(Option::is_some).await.ok()?;
        (*landed).clone()
    };
    match timeout(patience, landing).await {
        Ok(Some(landed)) => landed.map_err(Missed::Failed),
        Ok(None) | Err(_) => Err(Missed::Late),
    }
}

impl<T: Credential, E> Slot<T, E> {
    fn life(&self, now: i64) -> Option<(Rc<T>, Life)> {
        let kept = self.kept.borrow();
        let kept = kept.as_ref()?;
        let left = kept.credential.expires() - now;
        let life = match left {
            ..=0 => return None,
            _ if left < least(&*kept.credential) => Life::Short,
            _ if now >= kept.renew_at => Life::Ahead,
            _ => Life::Long,
        };
        Some((Rc::clone(&kept.credential), life))
    }
}

#[cfg(test)]
mod tests;
