//! Map names as the loader and the pin directory know them.

/// Socket storage: the [`CallerRecord`](super::CallerRecord) of a connecting or accepted socket.
pub const RECORDS: &str = "RECORDS";
/// Socket storage: `u32` [`LISTENER_MARK`](super::LISTENER_MARK) on each listener of the guard, and
/// [`ISSUER_MARK`](super::ISSUER_MARK) on the issuer's.
pub const LISTENERS: &str = "LISTENERS";
/// Socket storage: `u32` endpoint id on a socket of the proxy that may reach that real endpoint.
pub const UPSTREAM: &str = "UPSTREAM";
/// Hash: [`HandshakeKey`](super::HandshakeKey) to [`Handshake`](super::Handshake), for one handshake.
pub const HANDSHAKES: &str = "HANDSHAKES";
/// The same as an LRU, for what finds no room in [`HANDSHAKES`]: handshakes that are never ended fill that, and only
/// themselves fall out of this. And for those whose caller has closed before the accepting side was done.
pub const OVERFLOW: &str = "OVERFLOW";
/// Hash: [`EndpointKey`](super::EndpointKey) to [`Endpoint`](super::Endpoint).
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Hash: address (network order, IPv4 mapped) to [`OtherTraffic`](super::OtherTraffic) as `u32`, for each address with
/// an enforced endpoint.
pub const ADDRESSES: &str = "ADDRESSES";
/// One [`Prefilter`](super::Prefilter): a section and no map of its own in the object, so that programs read it like a
/// variable and pay for no look-up. bpffs takes no dots in names: it is pinned as `PREFILTER`.
pub const PREFILTER: &str = ".bss";
/// Hash: id of a cgroup whose processes may open raw sockets where others may not, to `u32` 1.
pub const RAW_SOCKETS: &str = "RAW_SOCKETS";
/// Per-CPU array of `u64`, indexed by [`Counter`](super::Counter).
pub const COUNTERS: &str = "COUNTERS";
/// Ring buffer of [`ObserveEvent`](super::ObserveEvent).
pub const EVENTS: &str = "EVENTS";
/// LRU hash: cookie of a network namespace to when user space was told of it, in nanoseconds of `CLOCK_MONOTONIC`, or
/// [`STANDING`](super::STANDING).
pub const NAMESPACES: &str = "NAMESPACES";
/// Ring buffer of [`Arrival`](super::Arrival).
pub const ARRIVALS: &str = "ARRIVALS";
/// Hash: ids of the cgroup_skb programs that the guard's own sockets pass, too.
pub const SHARED_FILTERS: &str = "SHARED_FILTERS";
/// LRU hash: [`Holder`](super::Holder) to [`Share`](super::Share).
pub const SHARES: &str = "SHARES";
/// Array of one `u64`: until when, in nanoseconds of `CLOCK_MONOTONIC`, the guard is taken to live. Listeners that the
/// service manager keeps count until then.
pub const LEASE: &str = "LEASE";
/// Hash: id of a cgroup whose processes may pass while no guard has run since boot, to `u32` 1. The guard empties it.
pub const EARLY: &str = "EARLY";
/// Hash: [`Scope`](super::Scope) to [`Bypass`](super::Bypass): who passes for a while, whatever the mode and whoever runs.
pub const BYPASSES: &str = "BYPASSES";
/// Hash: [`Lifeline`](super::Lifeline) to `u32` 1: who passes while no guard lives.
pub const LIFELINES: &str = "LIFELINES";
/// Socket storage: the [`Pass`](super::Pass) of a socket that was let through by either.
pub const PASSES: &str = "PASSES";
/// All of them: what is pinned.
pub const ALL: [&str; 20] = [
    RECORDS,
    LISTENERS,
    UPSTREAM,
    HANDSHAKES,
    OVERFLOW,
    ENDPOINTS,
    ADDRESSES,
    PREFILTER,
    RAW_SOCKETS,
    COUNTERS,
    EVENTS,
    NAMESPACES,
    ARRIVALS,
    SHARES,
    SHARED_FILTERS,
    LEASE,
    EARLY,
    BYPASSES,
    LIFELINES,
    PASSES,
];

/// The name under which a map is pinned.
#[must_use]
pub const fn pin(name: &str) -> &str {
    match name.as_bytes() {
        b".bss" => "PREFILTER",
        _ => name,
    }
}
