//! The cgroup filters that the guard's own sockets pass, kept in the kernel's table of them. In audit mode the proxy dials by
//! such a socket in the caller's place, so a caller whose packets pass any other filter could get further by us than alone:
//! the kernel leaves its connections untouched.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{HashMap, MapData, MapError};

use crate::sys::bpf::{Direction, query};

/// The table, and the cgroup that it is about.
#[derive(Debug)]
pub(super) struct SharedFilters {
    table: HashMap<MapData, u32, u32>,
    own: File,
}

impl SharedFilters {
    /// For sockets made in the cgroup `own`.
    pub(super) fn new(table: HashMap<MapData, u32, u32>, own: &Path) -> io::Result<Self> {
        let own = File::open(own)?;
        Ok(Self { table, own })
    }

    /// Adds one that is about to be attached.
    pub(super) fn expect(&mut self, program: u32) -> io::Result<()> {
        self.table.insert(program, 1, 0).map_err(failed)
    }

    /// Makes the table equal to what is in force now. What is missing in it costs audit a connection, never lets one pass.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let mut wanted = BTreeSet::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            wanted.extend(query::effective(self.own.as_fd(), direction as u32)?);
        }
        let known = self.table.keys().collect::<Result<BTreeSet<u32>, _>>();
        let known = known.map_err(failed)?;
        for stale in known.difference(&wanted) {
            self.table.remove(stale).map_err(failed)?;
        }
        for new in wanted.difference(&known) {
            self.table.insert(new, 1, 0).map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other.to_string()),
    }
}
