//! A million connections that race with everything that could confuse them: 0 mix-ups, 0 unguarded.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{binary, require};

use crate::guarded::{ENFORCE, Guarded, Holder, IMDS};

/// The agent runs for so long, then it is killed and started again.
const REIGN: Duration = Duration::from_millis(1500);

/// Sums over all agents.
#[derive(Debug, Default)]
struct Sums {
    accepted: u64,
    missing: u64,
    wrong: u64,
    agents: u64,
    /// Packets that only the second guard stopped.
    stopped: u64,
    oddities: Vec<String>,
}

impl Sums {
    fn add(&mut self, tally: &str) -> Result<()> {
        let number = |name: &str| -> Result<u64> {
            let word = tally
                .split(' ')
                .find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
            Ok(word.with_context(|| tally.to_owned())?.parse()?)
        };
        self.accepted += number("accepted")?;
        self.missing += number("missing")?;
        self.wrong += number("wrong")?;
        self.agents += 1;
        if number("missing")? + number("wrong")? > 0 {
            self.oddities.push(tally.to_owned());
        }
        // Of those who said nothing the record names nobody who hasn't spoken: another uid's cgroup, say.
        ensure!(number("crossed")? == 0, "{tally}");
        Ok(())
    }
}

/// What `racer` says: connections made, tried again, and gone to the service behind.
fn race(guarded: &Guarded, name: &str, arguments: [&str; 2]) -> Result<[u64; 3]> {
    let racer = guarded.world.show(&binary("racer")?, "racer")?;
    let who = guarded.world.workload(name).uid(0).gid(0);
    let output = who.run(&racer, &[arguments[0], IMDS, arguments[1]])?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let numbers: Vec<u64> = said
        .split(' ')
        .filter_map(|word| word.split_once('=')?.1.parse().ok())
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    numbers
        .try_into()
        .ok()
        .with_context(|| format!("{name}: {said} {errors}"))
}

#[expect(clippy::print_stderr, reason = "figures, for whoever reads")]
fn show(what: &str) {
    eprintln!("{what}");
}

/// What the racers say, and what arrived at the service behind in our own namespace.
#[derive(Debug, Default)]
struct Outcome {
    made: u64,
    again: u64,
    slipped: u64,
}

/// Name, kind, and how many of a hundred connections.
const RACES: [(&str, &str, u64); 6] = [
    ("crowd0", "crowd", 21),
    ("crowd1", "crowd", 21),
    ("crowd2", "crowd", 21),
    ("crowd3", "crowd", 21),
    ("nomads", "nomads", 12),
    ("heirs", "heirs", 4),
];

/// Runs all races, and agents one after the other until the last race is over.
fn run(guarded: &Guarded, total: u64, sums: &mut Sums) -> Result<Outcome> {
    let service = guarded.world.enter(|| Ok(TcpListener::bind(IMDS)?))?;
    service.set_nonblocking(true)?;
    // In force before anybody dials.
    let mut holder = guarded.start(ENFORCE)?;
    let (done, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<Outcome> {
        let races = RACES.map(|(name, kind, part)| {
            let count = (total * part / 100).to_string();
            scope.spawn(move || race(guarded, name, [kind, &count]))
        });
        scope.spawn(|| watch(&service, &done, &arrived));
        let reigns = (|| -> Result<()> {
            while !races.iter().all(|race| race.is_finished()) {
                std::thread::sleep(REIGN);
                end(&mut holder, sums)?;
                holder = guarded.start(ENFORCE)?;
            }
            // What connect programs let through to our own namespace's service, the egress program stops: count that, too.
            sums.stopped = holder.number("counters", "PacketDropped")?;
            end(&mut holder, sums)
        })();
        done.store(true, Relaxed);
        reigns?;
        let mut outcome = Outcome::default();
        for race in races {
            let [made, again, slipped] = race.join().expect("a race panicked")?;
            outcome.made += made;
            outcome.again += again;
            outcome.slipped += slipped;
        }
        outcome.slipped += arrived.load(Relaxed);
        Ok(outcome)
    })
}

fn watch(service: &TcpListener, done: &AtomicBool, arrived: &AtomicU64) {
    while !done.load(Relaxed) {
        match service.accept() {
            Ok(_) => drop(arrived.fetch_add(1, Relaxed)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn end(holder: &mut Holder, sums: &mut Sums) -> Result<()> {
    sums.add(&holder.ask("tally")?)?;
    holder.kill()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nothing_is_confused_and_nothing_slips_through_whatever_races() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let full = std::env::var_os("IMDS_GUARD_FULL").is_some();
    let total: u64 = if full { 1_000_000 } else { 50_000 };
    let guarded = Guarded::new("race")?;
    guarded.world.enter(|| {
        // Few enough that each is used again and again.
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        Ok(std::fs::write(range, "10000 29999")?)
    })?;
    let from = Instant::now();
    let mut sums = Sums::default();
    let outcome = run(&guarded, total, &mut sums)?;
    show(&format!("{outcome:?} {sums:?} in {:?}", from.elapsed()));
    assert_eq!((sums.wrong, sums.missing), (0, 0), "{sums:?}");
    assert_eq!((outcome.slipped, sums.stopped), (0, 0), "past the guard");
    assert!(outcome.made >= total, "{outcome:?}");
    // What an agent accepted between its last word and its end is compared with nothing.
    assert!(sums.accepted >= total / 10 * 8, "{sums:?}");
    assert!(sums.agents >= 3, "{sums:?}");
    Ok(())
}
