//! The demo: the main job of imds-guard, told step by step to somebody who sees it for the first time, with real programs.
//! `cargo xtask demo` builds what it needs and starts it; `cargo xtask run` starts it as `demo live`.
//!
//! Owns the story and the words that it is told in. Never touches the machine outside a world of its own, and never says
//! that a step passed without having looked.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]

mod interrupt;
mod live;
mod record;
mod stage;
mod story;

use anyhow::{Result, bail};
use imds_guard_tests::{Python, leftovers};
use std::path::PathBuf;
use std::process::ExitCode;

enum Act {
    Story,
    Live { config: Option<PathBuf> },
}

fn main() -> ExitCode {
    let outcome = act().and_then(|act| {
        if let Some(lack) = lacks(&act) {
            eprintln!("demo: {lack}");
            return Ok(ExitCode::from(3));
        }
        // Of runs that were killed.
        leftovers()?;
        match act {
            Act::Story => story::tell(),
            Act::Live { config } => live::run(config.as_deref()),
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

fn act() -> Result<Act> {
    let mut words = std::env::args().skip(1);
    let act = match words.next().as_deref() {
        None => Act::Story,
        Some("live") => Act::Live {
            config: words.next().map(PathBuf::from),
        },
        Some(other) => bail!("`{other}`? usage: demo [live [CONFIG]]"),
    };
    match words.next() {
        Some(more) => bail!("`{more}` is one word too many; usage: demo [live [CONFIG]]"),
        None => Ok(act),
    }
}

/// What the machine lacks for it, with what to do.
fn lacks(act: &Act) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "needs root: it makes a network namespace and a cgroup of its own, and loads eBPF programs into the kernel.\n\
             What to do: sudo -E env PATH=\"$PATH\" cargo xtask demo"
                .into(),
        );
    }
    let environment = match act {
        Act::Story => Python::environment().err(),
        Act::Live { .. } => None,
    };
    environment.map(|error| format!("needs the real azure-identity package: {error:#}"))
}
