//! Who may hold how many connections at once: a bound for all together, and one per caller identity, so that one
//! workload can't starve the others. Counts only; never looks at bytes, never closes anything.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The whole room. One for the process; clones of the `Rc` share it.
#[derive(Debug)]
pub(crate) struct Seats {
    all: Cell<usize>,
    limit_all: usize,
    limit_each: usize,
    taken: RefCell<HashMap<Holder, usize>>,
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
    /// A room with `limit_all` seats, of which one identity gets at most `limit_each`.
    pub(crate) fn new(limit_all: usize, limit_each: usize) -> Rc<Self> {
        Rc::new(Self {
            all: Cell::new(0),
            limit_all,
            limit_each,
            taken: RefCell::default(),
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
        let held = taken.entry(holder).or_insert(0);
        if *held >= self.limit_each {
            return Err(Full::Identity);
        }
        *held += 1;
        self.all.set(self.all.get() + 1);
        Ok(Seat {
            room: Rc::clone(self),
            holder,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.taken.borrow_mut();
        if let Some(held) = taken.get_mut(&self.holder) {
            *held -= 1;
            if *held == 0 {
                taken.remove(&self.holder);
            }
        }
        self.room.all.set(self.room.all.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = Holder::Recorded { cgroup: 1, uid: 10 };
    const OTHER: Holder = Holder::Recorded { cgroup: 2, uid: 10 };

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
    fn the_room_itself_is_bounded() {
        let room = Seats::new(2, 2);
        let one = room.take(ONE).unwrap();
        let _other = room.take(OTHER).unwrap();
        assert_eq!(room.take(Holder::Unattributed).unwrap_err(), Full::Room);
        drop(one);
        assert!(room.take(Holder::Unattributed).is_ok());
    }
}
