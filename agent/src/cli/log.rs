//! The log: what happens, on stderr, for whoever operates the guard. Audit records are not logs and go elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts it; `RUST_LOG` says how much (default: info).
pub(super) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    // Only a second start fails, and then there is a log already.
    drop(started);
}
