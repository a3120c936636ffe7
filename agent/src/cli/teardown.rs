//! `imds-guard teardown`: removes what `run` left pinned. The one command that opens the metadata addresses again.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::guard;

/// Arguments of `teardown`. The directories are those that `run` was given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Where the guard has its lock, which says whether it runs.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
    /// Also under a guard that runs. It serves nobody then, and says nothing of it.
    #[arg(long)]
    pub force: bool,
}

/// # Errors
/// Exit code 1 where a guard runs or something can't be removed, 3 without the right to.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let removed = guard::teardown(&args.pin_dir, &args.run_dir, args.force);
    let (pins, rules) = removed.map_err(|error| Failure::new(error.exit(), error))?;
    let told = if pins {
        "removed: nothing guards the metadata addresses now"
    } else {
        "there was nothing to remove"
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}: {told}", args.pin_dir.display())?;
    if rules {
        writeln!(out, "packet filter: the rules for guests are removed")?;
    }
    Ok(ExitCode::SUCCESS)
}
