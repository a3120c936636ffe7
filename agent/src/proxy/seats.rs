//! Who may hold how many connections at once: a bound for all together, and one per caller identity, so that one
//! workload can't starve the others. Counts only; never looks at bytes, never closes anything.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::rc::Rc;

/// The whole room. One for the process; clones of the `Rc` share it.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Cell<usize>,
    limit_all: usize,
    limit_each: usize,
    /// Of one uid that isn't root's, in however many cgroups: a user with a delegated tree makes as many as it likes.
    limit_uid: usize,
    taken: RefCell<HashMap<Holder, usize>>,
    taken_by_uid: RefCell<HashMap<u32, usize>>,
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

    /// Takes a seat.
    pub(crate) fn take(self: &Rc<Self>, holder: Holder) -> Result<Seat, Full> {
        if self.all.get() >= self.limit_all {
            return Err(Full::Room);
        }
        let mut taken = self.taken.borrow_mut();
        if taken
            .get(&holder)
            .is_some_and(|held| *held >= self.limit_each)
        {
            return Err(Full::Identity);
        }
        let mut users = self.taken_by_uid.borrow_mut();
        if let Some(uid) = holder.user() {
            let of_user = users.entry(uid).or_insert(0);
            if *of_user >= self.limit_uid {
                return Err(Full::Identity);
            }
            *of_user += 1;
        }
        *taken.entry(holder).or_insert(0) += 1;
        self.all.set(self.all.get() + 1);
        Ok(Seat {
            room: Rc::clone(self),
            holder,
        })
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
        release(&mut self.room.taken.borrow_mut(), self.holder);
        if let Some(uid) = self.holder.user() {
            release(&mut self.room.taken_by_uid.borrow_mut(), uid);
        }
        self.room.all.set(self.room.all.get() - 1);
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
}
