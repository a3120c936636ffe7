//! The command line: what an operator can say, and which exit code answers. Verbs live in one file each below `cli/`.
//! Nothing here decides anything; it reads arguments, calls the module that does, and prints.

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod bypass;
pub mod check;
pub mod doctor;
pub mod early;
pub mod explain;
pub mod federate;
pub mod issuer;
mod log;
pub mod proxy;
pub mod reload;
pub mod revoke;
pub mod run;
mod span;
pub mod status;
pub mod teardown;
pub mod version;

/// Decides, per workload, what a process on this host may get from the cloud's metadata service.
///
/// Every connect() to a metadata address is caught in the kernel, which records who is calling. Policy then says, per
/// workload, what that caller may have: a token of its own, some metadata, or nothing.
#[derive(Debug, Parser)]
#[command(
    name = "imds-guard",
    version,
    propagate_version = true,
    after_help = EXIT_CODES,
    after_long_help = EXIT_CODES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or failed while running
  2  bad usage, bad configuration or bad policy
  3  this machine lacks something: root, cgroup v2, bpffs, a kernel feature
  4, 5  of `doctor` and `status`: weak, unknown (their own help says more)
Each failure is told in one line that says what to do.

Start with `imds-guard check /etc/imds-guard/imds-guard.toml`, then `imds-guard run`.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Guard this host: attach to the kernel, serve the metadata addresses, until told to stop.
    ///
    /// SIGHUP reads the configuration again; a bad one changes nothing. When this ends, what guards the addresses stays in
    /// the kernel, and callers are refused until it runs again: `imds-guard teardown` alone removes it.
    Run(run::Args),
    /// Guard before `run` does, at boot: refuse enforced addresses, with nobody who answers, and return.
    ///
    /// For a unit before the network is up. Units named by --pass may ask the real service until `run` takes over.
    Early(early::Args),
    /// Have the running guard read its configuration again; a bad one changes nothing.
    ///
    /// With --confirm-within the earlier policy comes back by itself unless `imds-guard confirm` follows in time, also where the
    /// guard was restarted meanwhile, and at a reboot.
    Reload(reload::Args),
    /// Keep the policy that `reload --confirm-within` has put on trial.
    Confirm(reload::Confirm),
    /// End what was given: connections, and credentials that are kept; and say what lives on, and how the cloud ends that.
    ///
    /// It changes no policy: who is allowed gets a new credential at its next request. Take the rule away first.
    Revoke(revoke::Args),
    /// Break-glass: let one workload reach the real service as if nothing were guarded, for a while.
    ///
    /// The kernel ends it, also where no guard runs. Begin and end are in the audit file, and each use while a guard lives.
    Bypass(bypass::Args),
    /// Read configuration and policy files and report every error in them.
    Check(check::Args),
    /// Say what policy makes of a request, and why: of a live process, or of given selectors.
    Explain(explain::Args),
    /// Say what to set up at a cloud so that it takes a workload's assertions: issuer, subject, audience, and the commands.
    Federate(federate::Args),
    /// Publish what the embedded issuer has to show the world: its discovery document and its keys.
    Issuer(issuer::Args),
    /// Say whether the guard runs, by which policy, in which mode each address is, and what came of it lately.
    Status(status::Args),
    /// Say whether each layer is in force on this machine, and what leads round them.
    ///
    /// Works while the guard runs, after it ended, and where it never ran. Each finding says what it means and what to do.
    Doctor(doctor::Args),
    /// Remove what `run` left pinned in the kernel. After it, nothing guards the metadata addresses.
    Teardown(teardown::Args),
    /// Print version and architecture.
    Version(version::Args),
    /// The unprivileged half. Started by `run` or by its own unit; there is no reason to call it by hand.
    #[command(hide = true)]
    Proxy(proxy::Args),
}

/// Why a verb failed, as the exit code tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Refused, or failed while running.
    Failed = 1,
    /// Bad usage, configuration or policy.
    Usage = 2,
    /// The machine lacks something.
    Environment = 3,
    /// `doctor`: no way round was found, but weaknesses.
    Weak = 4,
    /// `doctor`, `status`: something could not be looked at.
    Unknown = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed verb: its exit code and what to tell the operator (usually one line; policy errors have a snippet each).
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    told: String,
}

impl Failure {
    /// A failure with this exit code and message.
    pub fn new(exit: Exit, told: impl fmt::Display) -> Self {
        Self {
            exit,
            told: told.to_string(),
        }
    }

    /// Its exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, format_args!("{:#}", error.into()))
    }
}

/// Runs one verb.
///
/// # Errors
/// The verb's failure, with the exit code that the help text promises.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.verb {
        Verb::Run(args) => run::run(args),
        Verb::Early(args) => early::run(&args),
        Verb::Reload(args) => reload::run(&args),
        Verb::Confirm(args) => reload::confirm(&args),
        Verb::Revoke(args) => revoke::run(&args),
        Verb::Bypass(args) => bypass::run(&args),
        Verb::Check(args) => check::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Federate(args) => federate::run(args),
        Verb::Issuer(args) => issuer::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Teardown(args) => teardown::run(args),
        Verb::Version(args) => version::run(args),
        Verb::Proxy(args) => proxy::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_proxy_verb_stays_out_of_the_help() {
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("  proxy"), "{help}");
        assert!(help.contains("Exit codes"), "{help}");
    }
}
