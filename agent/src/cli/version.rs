//! `imds-guard version`: what this binary is.

use std::io::Write;
use std::process::ExitCode;

use super::Failure;

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// Where stdout can't be written.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout();
    let facts = facts();
    if args.json {
        writeln!(out, "{facts}")?;
    } else {
        writeln!(
            out,
            "imds-guard {} ({})",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn facts() -> serde_json::Value {
    serde_json::json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "arch": std::env::consts::ARCH,
    })
}
