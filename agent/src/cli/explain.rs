//! `imds-guard explain`: what policy makes of one request, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, Failure};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("caller").required(true).args(["pid", "selectors"])))]
pub struct Args {
    /// Main configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// Attest this live process.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Judge these selectors instead of a live process, e.g. `unix:uid:1000`.
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    pub selectors: Vec<String>,
    /// The request as it would be sent, e.g. `GET /metadata/identity/oauth2/token?resource=https://vault.azure.net`.
    #[arg(long, value_name = "REQUEST")]
    pub request: String,
    /// Print the trace as JSON.
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// Exit code 2 where the policy has errors, 1 where the process can't be attested.
pub fn run(_args: Args) -> Result<ExitCode, Failure> {
    Err(Failure::new(Exit::Failed, "explain is not built yet"))
}
