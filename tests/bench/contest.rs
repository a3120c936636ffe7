//! Servers side by side: the same load on each in turn, round after round, so that what else the machine does meets all.

use crate::place::Place;
use crate::spread::{Aim, Spread};
use crate::wrk::{Connection, Load, Measured, Target};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// What is aimed at, for each manner of connecting.
type AimsOf = fn(Connection) -> Aims;

/// One of ours against its peer, under one load.
#[derive(Debug)]
pub(crate) struct Case {
    subject: &'static str,
    peer: &'static str,
    connection: Connection,
    connections: usize,
    theirs: Vec<Measured>,
    ours: Vec<Measured>,
    aims: Aims,
}

/// What is asked of the two ratios.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Aims {
    pub(crate) rate: Option<Aim>,
    pub(crate) cpu: Option<Aim>,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
}

/// Measure `ours` (with what is asked of each) against `peer`, in turn.
pub(crate) fn hold(
    peer: &Target<'_>,
    ours: &[(Target<'_>, AimsOf)],
    loads: &[(Connection, usize)],
    extent: Extent,
    script: &Path,
) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &(connection, connections) in loads {
        let measure = |target: &Target<'_>| {
            let load = Load {
                url: &target.url,
                connection,
                connections,
                seconds: extent.seconds,
            };
            load.measure(
                &target.place,
                target.script.as_deref().unwrap_or(script),
                &target.pids,
            )
        };
        let mut theirs = Vec::new();
        let mut each: Vec<Vec<Measured>> = ours.iter().map(|_| Vec::new()).collect();
        for _ in 0..extent.rounds {
            theirs.push(measure(peer)?);
            for ((target, _), measured) in ours.iter().zip(&mut each) {
                measured.push(measure(target)?);
            }
        }
        for ((target, aims), measured) in ours.iter().zip(each) {
            cases.push(Case {
                subject: target.name,
                peer: peer.name,
                connection,
                connections,
                theirs: theirs.clone(),
                ours: measured,
                aims: aims(connection),
            });
        }
    }
    Ok(cases)
}

impl Case {
    /// Ours by theirs, round by round.
    fn ratio(&self, of: fn(&Measured) -> f64) -> Spread {
        Spread::of(
            self.ours
                .iter()
                .zip(&self.theirs)
                .map(|(our, their)| of(our) / of(their)),
        )
    }

    fn both(&self, of: fn(&Measured) -> f64) -> (Spread, Spread) {
        let spread = |all: &[Measured]| Spread::of(all.iter().map(of));
        (spread(&self.theirs), spread(&self.ours))
    }

    /// Its line of the table, without subject and peer.
    pub(crate) fn line(&self) -> String {
        let verdict = |aim: Option<Aim>, ratio: &Spread| {
            aim.map_or_else(|| "\u{2013}".into(), |a| a.verdict(ratio))
        };
        let (rate, cpu) = (self.ratio(|m| m.rate), self.ratio(|m| m.cpu));
        let [(r0, r1), (a0, a1), (b0, b1), (c0, c1)] = [
            self.both(|m| m.rate),
            self.both(|m| m.p50),
            self.both(|m| m.p99),
            self.both(|m| m.cpu),
        ];
        format!(
            "  {:<14} {:>3}  {:>7.0} {:>7.0} {rate:>17}  {:<15} {:>5.0} {:>5.0}  {:>6.0} {:>6.0}  {:>6.1} {:>6.1} {cpu:>17}  {}",
            self.connection.name(),
            self.connections,
            r0.median,
            r1.median,
            verdict(self.aims.rate, &rate),
            a0.median,
            a1.median,
            b0.median,
            b1.median,
            c0.median,
            c1.median,
            verdict(self.aims.cpu, &cpu),
        )
    }

    /// Subject and peer.
    pub(crate) fn title(&self) -> String {
        format!("{} (against {})", self.subject, self.peer)
    }

    /// The head of the table that [`Case::line`]s belong to.
    pub(crate) fn head() -> String {
        format!(
            "  {:<14} {:>3}  {:^50}  {:^11}  {:^13}  {:^45}\n  {:<14} {:>3}  {:>7} {:>7} {:>17}  {:<15} {:>5} {:>5}  {:>6} {:>6}  {:>6} {:>6} {:>17}  {}",
            "",
            "",
            "requests/s",
            "p50 \u{b5}s",
            "p99 \u{b5}s",
            "CPU \u{b5}s per request",
            "connections",
            "",
            "peer",
            "ours",
            "ratio (min\u{2013}max)",
            "aim",
            "peer",
            "ours",
            "peer",
            "ours",
            "peer",
            "ours",
            "ratio (min\u{2013}max)",
            "aim",
        )
    }

    pub(crate) fn json(&self) -> Value {
        let side = |all: &[Measured]| {
            let of = |field: fn(&Measured) -> f64| Spread::of(all.iter().map(field)).json();
            json!({ "requests_per_s": of(|m| m.rate), "p50_us": of(|m| m.p50), "p99_us": of(|m| m.p99), "cpu_us": of(|m| m.cpu) })
        };
        let judged = |ratio: Spread, aim: Option<Aim>| json!({ "ratio": ratio.json(), "judged": aim.map(|a| a.json(&ratio)) });
        json!({
            "subject": self.subject, "peer_name": self.peer, "connection": self.connection.name(), "connections": self.connections,
            "peer": side(&self.theirs), "ours": side(&self.ours),
            "throughput": judged(self.ratio(|m| m.rate), self.aims.rate), "cpu": judged(self.ratio(|m| m.cpu), self.aims.cpu),
        })
    }
}

/// A place as `uid` in the cgroup at `cgroup` on `cpu`.
pub(crate) fn place<'w>(
    world: &'w imds_guard_tests::World,
    cgroup: &Path,
    uid: u32,
    cpu: usize,
) -> Place<'w> {
    Place {
        world,
        cgroup: cgroup.to_path_buf(),
        uid,
        cpu,
    }
}
