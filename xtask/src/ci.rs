//! `cargo xtask ci`: all that must hold before a change lands, each step timed against its budget (two cores, from nothing).
//!
//! Every step runs, whatever the one before said: one run tells all that is wrong. Tests come last, for their closing line.

use crate::{deny, ebpf, process, setup, test, tidy};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

struct Step {
    name: &'static str,
    minutes: u64,
    run: fn() -> Result<()>,
}

const STEPS: [Step; 8] = [
    Step {
        name: "setup",
        minutes: 10,
        run: || setup::run(&setup::Options::for_ci()),
    },
    Step {
        name: "fmt",
        minutes: 1,
        run: || cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "tidy",
        minutes: 1,
        run: tidy::run,
    },
    Step {
        name: "ebpf",
        minutes: 2,
        run: ebpf::ensure,
    },
    Step {
        name: "clippy",
        minutes: 6,
        run: || {
            cargo(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Step {
        name: "deny",
        minutes: 6,
        run: deny::run,
    },
    Step {
        name: "doc",
        minutes: 4,
        run: doc,
    },
    Step {
        name: "test",
        minutes: 50,
        run: || test::run(&test::Options::default()),
    },
];

/// Run the verb.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let mut report = Vec::new();
    let mut failed = Vec::new();
    let (tests, checks) = STEPS
        .split_last()
        .map_or((None, &STEPS[..]), |(last, rest)| (Some(last), rest));
    for step in checks {
        report.push(one(step, &mut failed));
    }
    println!(
        "\n== steps before the tests ({} s)",
        started.elapsed().as_secs()
    );
    report.iter().for_each(|line| println!("  {line}"));
    if let Some(tests) = tests {
        one(tests, &mut failed);
    }
    if !failed.is_empty() {
        bail!(
            "ci: failed: {} (after {} s)",
            failed.join(", "),
            started.elapsed().as_secs()
        );
    }
    Ok(())
}

fn one(step: &Step, failed: &mut Vec<&'static str>) -> String {
    println!("\n==== {} (budget {} min)", step.name, step.minutes);
    let started = Instant::now();
    let outcome = (step.run)();
    let took = started.elapsed();
    let slow = if took > Duration::from_secs(60 * step.minutes) {
        ", OVER its budget"
    } else {
        ""
    };
    match outcome {
        Ok(()) => format!(
            "{:<8} ok      {:>6.1} s{slow}",
            step.name,
            took.as_secs_f32()
        ),
        Err(error) => {
            println!("{}: {error:#}", step.name);
            failed.push(step.name);
            format!(
                "{:<8} FAILED  {:>6.1} s{slow}",
                step.name,
                took.as_secs_f32()
            )
        }
    }
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(&mut process::command("cargo", arguments)?)
}

fn doc() -> Result<()> {
    let mut command = process::command(
        "cargo",
        &[
            "doc",
            "--locked",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ],
    )?;
    process::run(command.env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private-intra-doc-links",
    ))
}
