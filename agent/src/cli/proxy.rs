//! `imds-guard proxy`: the unprivileged half, on a socket from the guard.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, Failure};

/// Arguments of `proxy`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("seam").required(true).args(["seam_fd", "seam_socket"])))]
pub struct Args {
    /// Descriptor of the socket to the guard, inherited from it.
    #[arg(long, value_name = "FD")]
    pub seam_fd: Option<i32>,
    /// Path of the guard's socket.
    #[arg(long, value_name = "PATH")]
    pub seam_socket: Option<PathBuf>,
}

/// # Errors
/// When the guard can't be reached or the seam breaks.
pub fn run(_args: Args) -> Result<ExitCode, Failure> {
    Err(Failure::new(Exit::Failed, "proxy is not built yet"))
}
