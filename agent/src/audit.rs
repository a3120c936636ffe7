//! From the kernel's record of a connection to the caller of an audit record, for both processes. What a record says is
//! defined in [`imds_guard_core::audit`]; nothing is written here.

use std::net::{IpAddr, SocketAddr};

use imds_guard_core::audit::{Caller, Comm};
use imds_guard_ebpf::CallerRecord;

/// The caller as the audit file names it.
pub(crate) fn caller(record: &CallerRecord) -> Caller {
    Caller {
        pid: record.tgid,
        uid: record.uid,
        gid: record.gid,
        comm: Comm(record.comm),
        cgroup_id: record.cgroup_id,
        netns: record.netns_cookie,
        connection: record.socket_cookie,
        endpoint: dialled(record),
    }
}

/// The address that the caller wrote in its `connect()`, an IPv4 one as such in whichever form it was dialled.
pub(crate) fn dialled(record: &CallerRecord) -> SocketAddr {
    SocketAddr::new(IpAddr::from(record.address).to_canonical(), record.port)
}
