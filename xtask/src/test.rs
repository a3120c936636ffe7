//! `cargo xtask test`: the tiers, each with its budget; what can't run here is named, and fails where CI=true.
//!
//! Owns the order (build once, then the tiers from cheap to dear) and the closing line `N passed, N failed`.

mod fuzz;
mod suites;
mod tally;
mod tier;

use crate::lack::Lack;
use crate::{dist, ebpf, process, rust_clients};
use anyhow::{Result, bail};
use clap::Args;
use std::time::{Duration, Instant};
pub(crate) use suites::KERNEL;
pub(crate) use tally::Tally;
pub(crate) use tier::Tier;

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Which tiers [default: all that this machine can run].
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Longer: fuzzing 10 minutes per target, the long kernel proofs at full length.
    #[arg(long)]
    pub(crate) full: bool,
}

/// Run the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = if options.tiers.is_empty() {
        Tier::ALL.to_vec()
    } else {
        options.tiers.clone()
    };
    let built = build(&wanted)?;
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for tier in &wanted {
        let (tally, line) = one(*tier, options.full, built.as_deref());
        total.add(&tally);
        lines.push(line);
    }
    println!("\n== tiers");
    lines.iter().for_each(|line| println!("  {line}"));
    if options.tiers.is_empty() {
        println!("  {:<11} not asked for: cargo xtask test vm", Tier::Vm);
    }
    println!("\n{total}");
    if total.failed > 0 {
        bail!("{} failed", total.failed);
    }
    Ok(())
}

/// All that the tiers run, built in one go. The answer is why there are no kernel programs, where there are none.
fn build(wanted: &[Tier]) -> Result<Option<String>> {
    let started = Instant::now();
    let without_object = match ebpf::ensure() {
        Ok(()) => None,
        Err(error) if error.is::<Lack>() => Some(
            error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        ),
        Err(error) => return Err(error),
    };
    if wanted.iter().all(|tier| tier.builds_its_own()) {
        return Ok(without_object);
    }
    process::run(&mut process::command(
        "cargo",
        &["build", "--locked", "--workspace", "--bins"],
    )?)?;
    process::run(&mut process::command(
        "cargo",
        &["test", "--locked", "--workspace", "--no-run", "--quiet"],
    )?)?;
    let needs_packages = |tier: &&Tier| {
        tier.installs_packages() && tier.cannot_run(without_object.as_deref()).is_none()
    };
    if wanted.iter().any(|tier| needs_packages(&tier)) {
        dist::pair()?;
    }
    if wanted.contains(&Tier::Sdk)
        && Tier::Sdk.cannot_run(without_object.as_deref()).is_none()
        && let Err(error) = rust_clients::ensure()
    {
        println!("  rust clients: {error:#}");
    }
    println!("test: built in {:.1} s", started.elapsed().as_secs_f32());
    Ok(without_object)
}

fn one(tier: Tier, full: bool, without_object: Option<&str>) -> (Tally, String) {
    println!("\n== {tier}: {}", tier.proves());
    if let Some(reason) = tier.cannot_run(without_object) {
        return not_run(tier, &reason);
    }
    let started = Instant::now();
    match tier.run(full) {
        Ok(tally) if tally.is_empty() => not_run(tier, "no test is in it"),
        Ok(tally) => {
            let line = timed(tier, full, started.elapsed(), &tally);
            (tally, line)
        }
        Err(error) => (Tally::failure(), format!("{tier:<11} FAILED: {error:#}")),
    }
}

/// A tier that didn't run is a gap, and in CI a gap is a failure: there it has all it needs, or its setup is broken.
fn not_run(tier: Tier, reason: &str) -> (Tally, String) {
    println!("  not run: {reason}");
    let tally = if in_ci() {
        Tally::failure()
    } else {
        Tally::skip()
    };
    (tally, format!("{tier:<11} NOT RUN: {reason}"))
}

fn timed(tier: Tier, full: bool, took: Duration, tally: &Tally) -> String {
    let budget = tier.budget();
    let verdict = if took > budget && !full {
        "OVER its budget of"
    } else {
        "budget"
    };
    format!(
        "{tier:<11} {tally:<28} {:>6.1} s ({verdict} {} s)",
        took.as_secs_f32(),
        budget.as_secs()
    )
}

/// Whether this is CI, where nothing is left out.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
