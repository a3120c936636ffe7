//! `cargo xtask bench`: what the agent costs, beside what would be there without it, in one run on one machine.
//!
//! Prints a table with what the project aims at; it judges nothing by its exit code, which says only whether everything
//! could be measured. All of it happens inside a world (`imds_guard_tests::World`).
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its table is its output, and progress goes beside it"
)]

mod contest;
mod decisions;
mod dial;
mod figure;
mod nginx;
mod options;
mod ours;
mod place;
mod programs;
mod report;
mod scene;
mod spread;
mod start;
mod usage;
mod wrk;

use anyhow::Result;
use options::{Options, Section};
use report::Report;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, address, count] = arguments.as_slice()
        && verb == "dial"
    {
        return dial::run(address, count);
    }
    let options = Options::parse(&arguments)?;
    let mut report = Report::default();
    report.notes.push(usage::elsewhere()?);
    if options.wants(Section::Start) {
        eprintln!("bench: starts and idle memory");
        report.figures.extend(start::measure()?);
    }
    if options.wants(Section::Decide) {
        eprintln!("bench: decisions");
        report.figures.extend(decisions::measure()?);
    }
    if options.wants_traffic() {
        scene::measure(&options, &mut report)?;
    }
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}
