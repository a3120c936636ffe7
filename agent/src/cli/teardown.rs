//! `imds-guard teardown`: removes what `run` left pinned. The one command that opens the metadata addresses again.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::guard::GuardError;
use crate::intercept::{self, guests};

/// Arguments of `teardown`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
}

/// # Errors
/// Exit code 1 where something pinned can't be removed, 3 without the right to.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
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
    writeln!(std::io::stdout(), "{}: {told}", args.pin_dir.display())?;
    let rules = guests::teardown().map_err(|error| GuardError::Rules { error });
    if rules.map_err(|error| Failure::new(error.exit(), error))? {
        writeln!(
            std::io::stdout(),
            "packet filter: the rules for guests are removed"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
