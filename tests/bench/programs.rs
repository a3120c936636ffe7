//! Nanoseconds per run of each BPF program, as the kernel counts them: for other destinations and for metadata.
//!
//! The kernel reads a clock before and after each run while somebody asks for it, and the figures include that. It is asked
//! by a descriptor, so that it stops when this process ends, however that happens; it costs every program on the machine.

use crate::figure::Figure;
use crate::place::Place;
use crate::spread::{Aim, Spread};
use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use imds_guard_tests::World;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Runs and nanoseconds of each program, by its name.
type Counts = BTreeMap<String, (u64, f64)>;

/// A load of connections: what it stands for, where it goes, and the program that must take at most `aim` for it.
#[derive(Debug, Clone)]
pub(crate) struct Dialled<'a> {
    pub(crate) what: &'static str,
    pub(crate) address: String,
    pub(crate) place: Place<'a>,
    pub(crate) aim: Option<Aim>,
}

/// Measure each load `rounds` times with `count` connections.
pub(crate) fn measure(
    world: &World,
    loads: &[Dialled<'_>],
    rounds: usize,
    count: u32,
) -> Result<Vec<Figure>> {
    let maps = pinned_maps(world)?;
    let bench = world
        .show(&std::env::current_exe()?, "bench")?
        .to_string_lossy()
        .into_owned();
    let _counting = enable_stats(Stats::RunTime).context("BPF statistics")?;
    let mut figures = Vec::new();
    for load in loads {
        let mut each: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            let before = counts(&maps)?;
            load.place
                .run(&bench, &["dial", &load.address, &count.to_string()])?;
            for (name, (runs, ns)) in since(&before, counts(&maps)?) {
                // A program that met fewer than half of the connections isn't what this load is about.
                if runs >= u64::from(count) / 2 {
                    each.entry(name).or_default().push(ns);
                }
            }
        }
        ensure!(
            !each.is_empty(),
            "no program of ours met the connections to {}",
            load.address
        );
        figures.extend(each.into_iter().map(|(name, rounds)| Figure {
            what: format!("{name}, {}", load.what),
            unit: "ns/run",
            aim: load.aim.filter(|_| name.starts_with("connect")),
            value: Spread::of(rounds),
        }));
    }
    Ok(figures)
}

/// What was added since, as (runs, nanoseconds per run).
fn since(before: &Counts, after: Counts) -> Counts {
    after
        .into_iter()
        .filter_map(|(name, (runs, ns))| {
            let (runs_before, ns_before) = before.get(&name).copied().unwrap_or_default();
            let added = runs.checked_sub(runs_before).filter(|&added| added > 0)?;
            let per_run = (ns - ns_before) / f64::from(u32::try_from(added).ok()?);
            Some((name, (added, per_run)))
        })
        .collect()
}

/// Only programs that use a map of this world: others on the machine may carry the same names.
fn counts(maps: &HashSet<u32>) -> Result<Counts> {
    let mut counts = Counts::new();
    for program in loaded_programs() {
        // A program may go between being listed and being looked at: another world's, never ours.
        let Ok(program) = program else { continue };
        if ours(&program, maps) {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            counts.insert(
                name,
                (program.run_count(), program.run_time().as_secs_f64() * 1e9),
            );
        }
    }
    Ok(counts)
}

fn ours(program: &ProgramInfo, maps: &HashSet<u32>) -> bool {
    matches!(program.map_ids(), Ok(Some(ids)) if ids.iter().any(|id| maps.contains(id)))
}

fn pinned_maps(world: &World) -> Result<HashSet<u32>> {
    let pins = world.directory().join("bpf/imds-guard");
    world.enter(|| {
        let mut ids = HashSet::new();
        for layout in list(&pins)? {
            for map in list(&layout.join("maps"))? {
                ids.insert(
                    MapInfo::from_pin(&map)
                        .with_context(|| map.display().to_string())?
                        .id(),
                );
            }
        }
        Ok(ids)
    })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
