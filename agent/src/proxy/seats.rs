//! Who may hold how many connections at once: a bound for all together, and one per caller identity, so that one
//! workload can't starve the others. Never looks at bytes.
//!
//! Identities are cheap to those who may make users or cgroups, so a full room is no refusal yet: whoever comes gets the seat of
//! who holds the most, of that one's connections the one on which nothing has been asked for the longest.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The whole room. One for the process; clones of the `Rc` share it.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Cell<usize>,
    limit_all: usize,
    limit_each: usize,
    /// Of one uid that isn't root's, in however many cgroups: a user with a delegated tree makes as many as it likes.
    limit_uid: usize,
    taken: RefCell<HashMap<Holder, Vec<Rc<Held>>>>,
    taken_by_uid: RefCell<HashMap<u32, usize>>,
}

/// One seat that is taken.
#[derive(Debug, Default)]
struct Held {
    /// Its place among those of its holder.
    place: Cell<usize>,
    /// Since when a request is waited for; `None` while one is answered.
    waiting: Cell<Option<Instant>>,
    /// Somebody else has it.
    lost: Cell<bool>,
    told: Notify,
}

/// Who a seat is counted for: the cgroup and the effective uid that the kernel recorded. Pids would not do: a caller forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A caller that the kernel recorded.
    Recorded {
        /// Cgroup id.
        cgroup: u64,
        /// Effective uid.
        uid: u32,
    },
    /// A guest.
    Guest(u32),
    /// All connections without a record share one small allowance.
    Unattributed,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The process serves as many connections as it may.
    Room,
    /// This identity holds as many as it may.
    Identity,
}

/// One connection's seat; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Seat {
    room: Rc<Seats>,
    holder: Holder,
    held: Rc<Held>,
}

impl Full {
    /// As the audit record says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Room => "connections",
            Self::Identity => "connections_of_caller",
        }
    }
}

impl Seats {
    /// A room with `limit_all` seats, of which one identity gets at most `limit_each`, and one user at most half.
    pub(crate) fn new(limit_all: usize, limit_each: usize) -> Rc<Self> {
        Rc::new(Self {
            all: Cell::new(0),
            limit_all,
            limit_each,
            limit_uid: limit_all.div_ceil(2).max(limit_each),
            taken: RefCell::default(),
            taken_by_uid: RefCell::default(),
        })
    }

    /// Whether nobody holds one.
    pub(crate) fn are_free(&self) -> bool {
        self.all.get() == 0
    }

    /// Takes a seat; where there is none, from who holds the most.
    pub(crate) fn take(self: &Rc<Self>, holder: Holder) -> Result<Seat, Full> {
        let has = |held: &Vec<_>| held.len();
        let own = self.taken.borrow().get(&holder).map_or(0, has);
        let of_user = holder.user().map_or(0, |uid| {
            self.taken_by_uid.borrow().get(&uid).copied().unwrap_or(0)
        });
        if own >= self.limit_each || of_user >= self.limit_uid {
            return Err(Full::Identity);
        }
        if self.all.get() >= self.limit_all && !self.make_room(own) {
            return Err(Full::Room);
        }
        let held = Rc::new(Held::default());
        let mut taken = self.taken.borrow_mut();
        let of_holder = taken.entry(holder).or_default();
        held.place.set(of_holder.len());
        of_holder.push(Rc::clone(&held));
        if let Some(uid) = holder.user() {
            *self.taken_by_uid.borrow_mut().entry(uid).or_insert(0) += 1;
        }
        self.all.set(self.all.get() + 1);
        Ok(Seat {
            room: Rc::clone(self),
            holder,
            held,
        })
    }

    /// Takes a seat away from who holds the most, if that is more than whoever wants one would then have.
    fn make_room(&self, own: usize) -> bool {
        let found = {
            let taken = self.taken.borrow();
            let most = taken.iter().max_by_key(|(_, held)| held.len());
            most.filter(|(_, held)| held.len() > own + 1)
                .and_then(|(holder, held)| {
                    let idle = |seat: &&Rc<Held>| seat.waiting.get();
                    let longest = held
                        .iter()
                        .filter(|seat| idle(seat).is_some())
                        .min_by_key(idle);
                    longest.map(|seat| (*holder, Rc::clone(seat)))
                })
        };
        let Some((holder, seat)) = found else {
            return false;
        };
        self.free(holder, &seat);
        seat.lost.set(true);
        seat.told.notify_one();
        true
    }

    fn free(&self, holder: Holder, held: &Held) {
        if let Entry::Occupied(mut of_holder) = self.taken.borrow_mut().entry(holder) {
            let place = held.place.get();
            of_holder.get_mut().swap_remove(place);
            if let Some(moved) = of_holder.get().get(place) {
                moved.place.set(place);
            }
            if of_holder.get().is_empty() {
                of_holder.remove();
            }
        }
        if let Some(uid) = holder.user() {
            release(&mut self.taken_by_uid.borrow_mut(), uid);
        }
        self.all.set(self.all.get() - 1);
    }
}

impl Seat {
    /// `request`, unless somebody else gets this seat before it is there: then `None`.
    pub(crate) async fn wait_for<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        self.held.waiting.set(Some(Instant::now()));
        let came = tokio::select! {
            // What has come is answered, and asks for no place in a list of who is to be told.
            biased;
            request = request => Some(request),
            () = self.held.told.notified() => None,
        };
        self.held.waiting.set(None);
        came
    }
}

impl Holder {
    /// The user whose seats are counted together. Root's aren't: containers run as root, each in a cgroup that it can't leave.
    const fn user(self) -> Option<u32> {
        match self {
            Self::Recorded { uid, .. } if uid != 0 => Some(uid),
            Self::Recorded { .. } | Self::Guest(_) | Self::Unattributed => None,
        }
    }
}

fn release<K: Eq + Hash>(taken: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut held) = taken.entry(key) {
        *held.get_mut() -= 1;
        if *held.get() == 0 {
            held.remove();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.held.lost.get() {
            self.room.free(self.holder, &self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = Holder::Recorded { cgroup: 1, uid: 10 };
    const OTHER: Holder = Holder::Recorded { cgroup: 2, uid: 11 };

    #[test]
    fn one_identity_cannot_take_the_seats_of_another() {
        let room = Seats::new(4, 2);
        let held = [room.take(ONE).unwrap(), room.take(ONE).unwrap()];
        assert_eq!(room.take(ONE).unwrap_err(), Full::Identity);
        let other = room.take(OTHER).unwrap();
        drop(held);
        assert!(room.take(ONE).is_ok(), "a freed seat can be taken again");
        drop(other);
        assert!(
            room.taken.borrow().is_empty(),
            "identities that hold nothing cost nothing"
        );
    }

    #[test]
    fn one_user_cannot_take_all_seats_by_making_cgroups() {
        let room = Seats::new(8, 2);
        let user = |cgroup, uid| room.take(Holder::Recorded { cgroup, uid });
        let held: Vec<_> = (0..4).map(|n| user(n / 2, 1000).unwrap()).collect();
        assert_eq!(user(9, 1000).unwrap_err(), Full::Identity);
        let others = [user(9, 1001).unwrap(), user(10, 0).unwrap()];
        drop(held);
        let again = user(9, 1000).unwrap();
        // Root's cgroups are each counted alone.
        let root: Vec<_> = (0..5).map(|n| user(20 + n, 0).unwrap()).collect();
        drop((others, again, root));
        assert!(room.taken_by_uid.borrow().is_empty());
    }

    #[test]
    fn the_room_itself_is_bounded() {
        let room = Seats::new(2, 2);
        let one = room.take(ONE).unwrap();
        let _other = room.take(OTHER).unwrap();
        assert_eq!(room.take(Holder::Unattributed).unwrap_err(), Full::Room);
        drop(one);
        assert!(room.take(Holder::Unattributed).is_ok());
    }

    /// Subordinate ids make as many identities as anybody likes; whoever comes has a seat all the same.
    #[tokio::test(start_paused = true)]
    async fn a_full_room_takes_from_who_holds_the_most_where_nothing_is_asked() {
        let room = Seats::new(5, 4);
        let many: Vec<_> = (0..4).map(|_| room.take(ONE).unwrap()).collect();
        let other = room.take(OTHER).unwrap();
        let late = Holder::Recorded { cgroup: 3, uid: 12 };
        assert_eq!(room.take(late).unwrap_err(), Full::Room, "all are answered");
        let mut waits: Vec<_> = many
            .iter()
            .map(|seat| Box::pin(seat.wait_for(std::future::pending::<()>())))
            .collect();
        for wait in &mut waits[1..] {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            assert!(polled(wait).is_none());
        }
        let seat = room.take(late).unwrap();
        assert_eq!(polled(&mut waits[1]), Some(None), "idle for longest");
        assert!(polled(&mut waits[2]).is_none());
        let second = room.take(late).unwrap();
        assert_eq!(polled(&mut waits[2]), Some(None));
        // Two each and one: nobody holds more than whoever wants one would.
        assert_eq!(room.take(late).unwrap_err(), Full::Room);
        drop(waits);
        drop((many, other, seat, second));
        assert!(room.are_free() && room.taken.borrow().is_empty());
        assert!(room.taken_by_uid.borrow().is_empty());
    }

    fn polled<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
