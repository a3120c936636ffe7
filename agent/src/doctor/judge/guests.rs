//! Guests, and whatever else only passes through this host: netfilter's part of interception.

use super::super::facts::Facts;
use super::super::finding::{Finding, State};
use crate::intercept::{Mode, NotedGuests};

/// Whether the rules stand, and whether each configured guest is served.
pub(super) fn guests(facts: &Facts) -> Finding {
    const CHECK: &str = "guests";
    let (endpoints, tables) = match (&facts.endpoints, &facts.tables) {
        (Err(why), _) | (_, Err(why)) => return Finding::unknown(CHECK, why),
        (Ok(endpoints), Ok(tables)) => (endpoints, tables),
    };
    if !endpoints.iter().any(|(_, mode)| *mode == Mode::Enforce) {
        return Finding::ok(
            CHECK,
            "nothing is enforced: what this host only forwards is left alone",
        );
    }
    let noted = facts.guests.clone().unwrap_or_default();
    let stands = |family: &str| tables.iter().any(|table| table == family);
    if !stands("inet") {
        // Where guests were to be served, somebody is there who passes.
        let state = if noted == NotedGuests::default() {
            State::Weak
        } else {
            State::Open
        };
        return Finding::new(
            CHECK,
            state,
            "netfilter has no rules of ours for what this host only forwards",
            "guests, and all that comes in at an interface, reach the metadata service without being asked who they are",
            "install the package nftables and restart the guard; if it is there, find out who flushes rules",
        )
        .about(noted.faults);
    }
    if !stands("bridge") {
        return Finding::weak(
            CHECK,
            "netfilter has no rules of ours for bridges",
            "frames pass from port to port unseen, and guests behind bridges aren't served",
            "load the module nf_tables_bridge, or boot a kernel that has it, and restart the guard",
        )
        .about(noted.faults);
    }
    let served = noted.served.len();
    if noted.faults.is_empty() {
        let about = noted.served.into_iter();
        return Finding::ok(CHECK, format!("{served} are served"))
            .about(about.map(|(id, interface)| format!("{id} at {interface}")));
    }
    Finding::weak(
        CHECK,
        format!("{served} are served, and not all that are configured"),
        "who isn't served gets nothing: its packets for an enforced address are dropped",
        "see the reason beside each; the guard's log has them, too",
    )
    .about(noted.faults)
}
