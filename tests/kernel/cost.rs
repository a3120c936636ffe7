//! What interception costs connections that are none of its business, by the kernel's own statistics.
//!
//! The bound is wide, for this runs beside other tests; `cargo xtask bench` measures in quiet.

use std::net::TcpListener;

use imds_guard::intercept::cost::{ProgramCost, costs, count};
use imds_guard_tests::require;

use crate::guarded::{ENFORCE, Guarded, IMDS};

const OTHER: &str = "127.0.0.1:80";
const WIDE_BOUND_NS: f64 = 400.0;
const ROUNDS: u64 = 15;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn other_destinations_cost_next_to_nothing() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("cost").unwrap();
    let _counting = count().unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let other = guarded
        .world
        .enter(|| Ok(TcpListener::bind(OTHER)?))
        .unwrap();
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            let _claim = std::io::Read::read(&mut stream, &mut [0; 64]);
            let _gone = std::io::Write::write_all(&mut stream, b"o");
        }
    });
    let pins = guarded.pins();
    let now = || guarded.world.enter(|| Ok(costs(&pins)?)).unwrap();
    for (what, to) in [("others", OTHER), ("metadata", IMDS)] {
        let rounds: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let before = now();
                guarded.call_as_web(&["flood", to, "200", "1"]).unwrap();
                (before, now())
            })
            .collect();
        for name in ["connect4", "established"] {
            let median = median(&rounds, name);
            println!("{name}: {median:.0} ns per run for {what}");
            assert!(
                what != "others" || median < WIDE_BOUND_NS,
                "{name}: {median} ns"
            );
        }
    }
    let before = now();
    guarded.call_as_web(&["udps", OTHER, "200000"]).unwrap();
    let hot = median(&[(before, now())], "connect4");
    println!("connect4: {hot:.0} ns per run for others, one after the other");
    // The twin: it is these programs that were measured.
    let seen = holder.number("tally", "accepted").unwrap();
    assert_eq!(seen, 200 * ROUNDS);
    println!(
        "started in {} µs",
        holder.greeting.split(' ').nth(1).unwrap()
    );
}

/// Of several short rounds, because a run that is preempted counts the time away as its own.
fn median(rounds: &[(Vec<ProgramCost>, Vec<ProgramCost>)], name: &str) -> f64 {
    let of = |costs: &[ProgramCost]| costs.iter().copied().find(|c| c.program == name);
    let mut each: Vec<f64> = rounds
        .iter()
        .filter_map(|(before, after)| of(after)?.nanoseconds_per_run_since(&of(before)?))
        .collect();
    assert_eq!(each.len(), rounds.len(), "{name} did not run");
    each.sort_by(f64::total_cmp);
    each[each.len() / 2]
}
