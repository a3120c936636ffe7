//! `imds-guard reload` and `imds-guard confirm`: what the running guard is asked, and what it answers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Exit, Failure, span};
use crate::control::{self, Ask};

/// Longest time to confirm in, in hours: whoever needs longer has to say it again.
const LONGEST: u64 = 24;

/// Arguments of `reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go back to the policy of before unless `imds-guard confirm` follows in this time: 90s, 10m, 2h; at most 24h.
    #[arg(long, value_name = "TIME", value_parser = within)]
    pub confirm_within: Option<Duration>,
    /// The run directory of the guard that is asked.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
}

/// Arguments of `confirm`.
#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// The run directory of the guard that is asked.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
}

fn within(text: &str) -> Result<Duration, String> {
    span::parse_within(text, LONGEST)
}

/// # Errors
/// Exit code 1 where the guard refuses, with nothing changed, or none runs; 3 without the right to ask.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let confirm_within_s = args.confirm_within.map(|time| time.as_secs());
    ask(&args.run_dir, &Ask::Reload { confirm_within_s })
}

/// # Errors
/// As [`run`].
pub fn confirm(args: &Confirm) -> Result<ExitCode, Failure> {
    ask(&args.run_dir, &Ask::Confirm)
}

pub(super) fn ask(run_dir: &Path, ask: &Ask) -> Result<ExitCode, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(Exit::Environment, "that takes root: use sudo"));
    }
    let answer = control::ask(run_dir, ask).map_err(|error| {
        let told = format!(
            "no guard answers in {}: {error}: is it running (`imds-guard status`), and is it of this version?",
            run_dir.display()
        );
        Failure::new(Exit::Failed, told)
    })?;
    if !answer.done {
        return Err(Failure::new(Exit::Failed, answer.told));
    }
    writeln!(std::io::stdout(), "{}", answer.told)?;
    Ok(ExitCode::SUCCESS)
}
