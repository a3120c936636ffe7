//! Who is at the other end of an accepted connection: a process of this host, as the kernel recorded it at its `connect()`,
//! or a guest, as the listener that accepted it says. Kept apart by type: a guest has no pid and no uid, not even 0.

use std::net::SocketAddr;
use std::sync::Arc;

use imds_guard_core::audit;
use imds_guard_ebpf::CallerRecord;

use crate::intercept::endpoint_id;

/// See the module's head.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// It called `connect()` on this kernel.
    Process(CallerRecord),
    /// Its packets came in at its interface.
    Guest(Guest),
}

/// A guest on one connection.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// Names this guest at this place, in this run of the guard.
    pub(crate) key: u32,
    /// `vm:id`.
    pub(crate) id: Arc<str>,
    /// `net:ifname`.
    pub(crate) interface: Arc<str>,
    /// The guarded endpoint that it dialled.
    pub(crate) dialled: SocketAddr,
    /// Its own address as its packets bear it: for the record, never for who it is.
    pub(crate) address: SocketAddr,
}

impl Caller {
    /// The kernel's record, of a process.
    pub(crate) fn process(&self) -> Option<&CallerRecord> {
        match self {
            Self::Process(record) => Some(record),
            Self::Guest(_) => None,
        }
    }

    /// The guest.
    pub(crate) fn guest(&self) -> Option<&Guest> {
        match self {
            Self::Process(_) => None,
            Self::Guest(guest) => Some(guest),
        }
    }

    /// The address and port that it wanted to reach.
    pub(crate) fn dialled(&self) -> SocketAddr {
        match self {
            Self::Process(record) => crate::audit::dialled(record),
            Self::Guest(guest) => guest.dialled,
        }
    }

    /// The endpoint's id, for the mark of an upstream.
    pub(crate) fn endpoint_id(&self) -> u32 {
        match self {
            Self::Process(record) => record.endpoint_id,
            Self::Guest(guest) => endpoint_id(guest.dialled).get(),
        }
    }

    /// As the audit file names it: one of the two.
    pub(crate) fn audited(&self) -> (Option<audit::Caller>, Option<audit::Guest<'_>>) {
        let guest = self.guest().map(|guest| audit::Guest {
            id: &guest.id,
            interface: &guest.interface,
            address: guest.address,
            endpoint: guest.dialled,
        });
        (self.process().map(crate::audit::caller), guest)
    }
}
