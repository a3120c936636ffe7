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
    let service = guarded.world.enter(|| Ok(TcpListener::bind(IMDS)?))?;
    service.set_nonblocking(true)?;
    // In force before anybody dials.
    let mut holder = guarded.start(ENFORCE)?;
    let from = Instant::now();
    let mut sums = Sums::default();
    let [mut made, mut again, mut slipped] = [0; 3];
    let (done, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        // What runs is left of the last agent, also when a race fails.
        let races: Vec<_> = [
            ("crowd0", "crowd", total * 21 / 100),
            ("crowd1", "crowd", total * 21 / 100),
            ("crowd2", "crowd", total * 21 / 100),
            ("crowd3", "crowd", total * 21 / 100),
            ("nomads", "nomads", total * 12 / 100),
            ("heirs", "heirs", total * 4 / 100),
        ]
        .into_iter()
        .map(|(name, kind, count)| {
            let guarded = &guarded;
            scope.spawn(move || race(guarded, name, [kind, &count.to_string()]))
        })
        .collect();
        scope.spawn(|| {
            while !done.load(Relaxed) {
                match service.accept() {
                    Ok(_) => drop(arrived.fetch_add(1, Relaxed)),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let outcome = (|| -> Result<()> {
            while !races.iter().all(|race| race.is_finished()) {
                std::thread::sleep(REIGN);
                end(&mut holder, &mut sums)?;
                holder = guarded.start(ENFORCE)?;
            }
            end(&mut holder, &mut sums)
        })();
        done.store(true, Relaxed);
        outcome?;
        for race in races {
            let [m, a, s] = race.join().expect("a race panicked")?;
            made += m;
            again += a;
            slipped += s;
        }
        Ok(())
    })?;
    show(&format!(
        "{made} connections in {:?}, {again} tries beside them, {} agents; compared: {}, wrong: {}, without a record: {}, \
         past the guard: {}",
        from.elapsed(),
        sums.agents,
        sums.accepted,
        sums.wrong,
        sums.missing,
        slipped + arrived.load(Relaxed)
    ));
    assert_eq!((sums.wrong, sums.missing), (0, 0), "{:?}", sums.oddities);
    assert_eq!(slipped + arrived.load(Relaxed), 0, "past the guard");
    assert!(made >= total, "{made}");
    // What an agent accepted between its last word and its end is compared with nothing.
    assert!(sums.accepted >= total / 10 * 8, "{sums:?}");
    assert!(sums.agents >= 3, "{sums:?}");
    Ok(())
}

fn end(holder: &mut Holder, sums: &mut Sums) -> Result<()> {
    sums.add(&holder.ask("tally")?)?;
    holder.kill()
}
