//! `imds-guard federate`: what has to be set up on a cloud's side for a workload, to the letter, with the commands for it. Says
//! what policy says; asks no cloud anything.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use imds_guard_core::policy::federated::Federated;
use imds_guard_core::request::Cloud;
use serde_json::json;

use super::issuer::compiled;
use super::{Exit, Failure};

mod setup;

use setup::Setup;

const EXAMPLES: &str = "\
Examples:
  imds-guard federate azure --workload billing
  imds-guard federate aws --workload billing --json | jq -r '.[0].trust_policy'

Issuer, subject and audience count to the letter: a slash more, or a capital letter, and the cloud refuses.";

/// Arguments of `federate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Whose side.
    #[arg(value_enum)]
    pub cloud: Side,
    /// The workload, as the policy names it.
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    /// Main configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A cloud that takes assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Entra ID: a federated credential of an application or a user-assigned managed identity.
    Azure,
    /// An OIDC provider, and a role that trusts it.
    Aws,
    /// A provider of a workload identity pool, and who may impersonate a service account.
    Gcp,
}

/// # Errors
/// Exit code 2 where the policy has errors, or gives the workload nothing of this cloud by federation.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let compiled = compiled(&args.config)?;
    let cloud = match args.cloud {
        Side::Azure => Cloud::Azure,
        Side::Aws => Cloud::Aws,
        Side::Gcp => Cloud::Gcp,
    };
    let found = compiled.policy.federated(&args.workload, cloud);
    let Some(found) = found else {
        let told = format!(
            "there is no workload `{}` in the policy: name one of its own",
            args.workload
        );
        return Err(Failure::new(Exit::Usage, told));
    };
    if found.is_empty() {
        let told = format!(
            "no rule of `{}` gives anything of this cloud by federation: add one whose identity has source = \"federate\"",
            args.workload
        );
        return Err(Failure::new(Exit::Usage, told));
    }
    let issuer = compiled
        .settings
        .issuer
        .as_ref()
        .map(|issuer| Arc::clone(&issuer.url));
    let all: Vec<Setup> = found
        .iter()
        .map(|found| setup::of(found, issuer.as_deref(), &args.workload))
        .collect();
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{:#}", json!(all))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (setup, found) in all.iter().zip(&found) {
        write!(out, "{}", told(setup, found, &args.workload))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(setup: &Setup, found: &Federated, workload: &str) -> String {
    let mut text = format!(
        "# identity `{}` of workload `{workload}`\n# issuer    {}\n# subject   {}\n# audience  {}\n",
        found.identity.name, setup.issuer, setup.subject, setup.audience
    );
    for note in &setup.notes {
        text.push_str(&format!("# {note}\n"));
    }
    for step in &setup.commands {
        text.push_str(&format!("\n{step}\n"));
    }
    text.push_str(&format!("\n# the same in Terraform\n{}\n", setup.terraform));
    text
}
