//! How long the pure core takes to decide: by the core's own example, which needs nothing but the core.

use crate::figure::Figure;
use crate::spread::{Aim, Spread};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::binary;
use std::process::Command;

/// Run it, and read its lines.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let program = binary("examples/decide_speed")?;
    let output = Command::new(&program).output().context("decide_speed")?;
    ensure!(
        output.status.success(),
        "decide_speed failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figures: Vec<Figure> = String::from_utf8(output.stdout)?
        .lines()
        .flat_map(figures)
        .collect();
    ensure!(
        figures.iter().any(|f| f.aim.is_some()),
        "decide_speed said nothing of decisions"
    );
    Ok(figures)
}

/// `10 rules: identify 350 ns, decide 120 ns (token, allowed), 90 ns (read, refused); compiled in 1 ms`
fn figures(line: &str) -> Vec<Figure> {
    let Some((rules, times)) = line.trim().split_once(" rules: ") else {
        return Vec::new();
    };
    times
        .split([',', ';'])
        .zip([
            "identify",
            "decide, token allowed",
            "",
            "decide, read refused",
        ])
        .filter(|(_, what)| !what.is_empty())
        .filter_map(|(part, what)| {
            let ns = part.split_whitespace().find_map(|word| word.parse().ok())?;
            Some(Figure {
                what: format!("{what}, {rules} rules"),
                unit: "ns",
                value: Spread::of([ns]),
                aim: what.starts_with("decide").then_some(Aim::AtMost(1000.0)),
            })
        })
        .collect()
}
