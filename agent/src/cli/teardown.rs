//! `imds-guard teardown`: removes what `run` left pinned. The one command that opens the metadata addresses again.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, Failure};
use crate::doctor;
use crate::guard::GuardError;
use crate::intercept::{self, Mode, guests};

/// Arguments of `teardown`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Only where no address is in mode `enforce`: leave it, and exit with 1, where one is.
    #[arg(long)]
    pub unless_enforced: bool,
}

/// # Errors
/// Exit code 1 where a guard runs or something can't be removed, 3 without the right to.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    if args.unless_enforced && enforces(&args.pin_dir)? {
        return Err(Failure::new(
            Exit::Failed,
            format_args!(
                "{}: left as it is: addresses are enforced",
                args.pin_dir.display()
            ),
        ));
    }
    // One that runs would put back what is removed here.
    let free = intercept::is_free(&args.pin_dir).map_err(GuardError::from);
    free.map_err(|error| Failure::new(error.exit(), error))?;
    let removed = intercept::teardown(&args.pin_dir).map_err(GuardError::from);
    let removed = removed.map_err(|error| Failure::new(error.exit(), error))?;
    let told = if removed {
        "removed: nothing guards the metadata addresses now"
    } else {
        "there was nothing to remove"
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}: {told}", args.pin_dir.display())?;
    let rules = guests::teardown().map_err(|error| GuardError::Rules { error });
    if rules.map_err(|error| Failure::new(error.exit(), error))? {
        writeln!(out, "packet filter: the rules for guests are removed")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether any address is in mode `enforce`, as the kernel has it. What can't be read counts as enforced.
fn enforces(pin_dir: &std::path::Path) -> Result<bool, Failure> {
    let endpoints = doctor::endpoints(pin_dir);
    let endpoints = endpoints.map_err(|why| Failure::new(Exit::Environment, why))?;
    Ok(endpoints.iter().any(|(_, mode)| *mode == Mode::Enforce))
}
