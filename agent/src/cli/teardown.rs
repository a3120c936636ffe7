//! `imds-guard teardown`: removes what `run` left pinned. The one command that opens the metadata addresses again.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, Failure};

/// Arguments of `teardown`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
}

/// # Errors
/// Exit code 1 where something pinned can't be removed.
pub fn run(_args: Args) -> Result<ExitCode, Failure> {
    Err(Failure::new(Exit::Failed, "teardown is not built yet"))
}
