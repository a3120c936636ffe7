//! Which namespaces have listeners, who answers for them, and which of them nobody lives in. Counts only: no system calls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::Listeners;

/// Scans in a row that must have found nobody before a namespace is given up: a process may move while one is under way.
const ABSENCES: u8 = 2;

/// One namespace with listeners.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) listeners: Arc<Listeners>,
    /// Of its file in nsfs; stays its own as long as the listeners are open.
    inode: u64,
    /// [`crate::sys::netns::owner`].
    owner: Option<u32>,
    absences: u8,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Table {
    by_cookie: HashMap<u64, Space>,
    cookies: HashMap<u64, u64>,
    home: u64,
    most: usize,
    most_each: usize,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error(
        "there are listeners in {0} network namespaces, which is as many as the limit of open files allows"
    )]
    All(usize),
    #[error(
        "user {1} has {0} network namespaces with listeners, which is as many as one user may have"
    )]
    Owner(usize, u32),
}

impl Table {
    /// With the guard's own namespace, which stays. `most` namespaces at once, of which a user who isn't root has at most
    /// a quarter: whoever may make user namespaces may make any number of network namespaces.
    pub(super) fn new(home: Arc<Listeners>, inode: u64, most: usize) -> Self {
        let cookie = home.netns_cookie;
        let mut table = Self {
            by_cookie: HashMap::new(),
            cookies: HashMap::new(),
            home: cookie,
            most,
            most_each: most.div_ceil(4),
        };
        table.insert(home, inode, None);
        table
    }

    /// The namespace with this cookie.
    pub(super) fn get(&self, cookie: u64) -> Option<&Space> {
        self.by_cookie.get(&cookie)
    }

    /// Whether the namespace with this inode is here.
    pub(super) fn has_inode(&self, inode: u64) -> bool {
        self.cookies.contains_key(&inode)
    }

    /// Whether one more of this owner may come.
    pub(super) fn room(&self, owner: Option<u32>) -> Result<(), Full> {
        if self.by_cookie.len() >= self.most {
            return Err(Full::All(self.most));
        }
        let Some(uid) = owner.filter(|uid| *uid != 0) else {
            return Ok(());
        };
        let theirs = self.by_cookie.values().filter(|s| s.owner == owner);
        if theirs.count() >= self.most_each {
            return Err(Full::Owner(self.most_each, uid));
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, listeners: Arc<Listeners>, inode: u64, owner: Option<u32>) {
        let cookie = listeners.netns_cookie;
        self.cookies.insert(inode, cookie);
        let space = Space {
            listeners,
            inode,
            owner,
            absences: 0,
        };
        self.by_cookie.insert(cookie, space);
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Option<Space> {
        let space = self.by_cookie.remove(&cookie)?;
        self.cookies.remove(&space.inode);
        Some(space)
    }

    /// Whether some namespace is not among those in which somebody was found.
    pub(super) fn misses_any(&self, present: &HashSet<u64>) -> bool {
        let others = self.by_cookie.iter().filter(|(c, _)| **c != self.home);
        others.into_iter().any(|(_, s)| !present.contains(&s.inode))
    }

    /// Takes the outcome of a scan; the cookies of those to be given up.
    pub(super) fn seen(&mut self, present: &HashSet<u64>) -> Vec<u64> {
        let mut empty = vec![];
        for (cookie, space) in &mut self.by_cookie {
            if *cookie == self.home || present.contains(&space.inode) {
                space.absences = 0;
                continue;
            }
            space.absences += 1;
            if space.absences >= ABSENCES {
                empty.push(*cookie);
            }
        }
        empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn listeners(netns_cookie: u64) -> Arc<Listeners> {
        let v4: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        Arc::new(Listeners {
            netns_cookie,
            v4,
            v6: None,
        })
    }

    fn table(most: usize) -> Table {
        Table::new(listeners(1), 101, most)
    }

    #[test]
    fn a_namespace_is_given_up_after_two_scans_without_anybody_and_home_never() {
        let mut table = table(9);
        table.insert(listeners(2), 102, None);
        table.insert(listeners(3), 103, None);
        let only_two = HashSet::from([102]);
        assert!(table.misses_any(&only_two));
        assert!(table.seen(&only_two).is_empty());
        assert!(table.seen(&HashSet::from([102, 103])).is_empty(), "back");
        assert!(table.seen(&only_two).is_empty());
        assert_eq!(table.seen(&only_two), [3]);
        table.remove(3).unwrap();
        assert!(!table.has_inode(103) && table.get(3).is_none());
        assert!(!table.misses_any(&only_two));
        assert!(table.get(1).is_some());
    }

    #[test]
    fn one_user_gets_a_quarter_and_root_the_rest() {
        let mut table = table(8);
        for n in 2..4 {
            table.room(Some(1000)).unwrap();
            table.insert(listeners(n), 100 + n, Some(1000));
        }
        assert_eq!(table.room(Some(1000)), Err(Full::Owner(2, 1000)));
        assert_eq!(table.room(Some(1001)), Ok(()));
        for n in 4..9 {
            table.room(if n % 2 == 0 { Some(0) } else { None }).unwrap();
            table.insert(listeners(n), 100 + n, None);
        }
        assert_eq!(table.room(None), Err(Full::All(8)));
        table.remove(2).unwrap();
        assert_eq!(table.room(Some(1000)), Ok(()));
    }
}
