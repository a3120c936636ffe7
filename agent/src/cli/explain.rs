//! `imds-guard explain`: what policy makes of one request, and why. Prints what the pure core found; decides nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::Table;
use imds_guard_core::policy::Mode;
use imds_guard_core::policy::explain::Explanation;
use imds_guard_core::selector::Selectors;

use super::check;
use super::{Exit, Failure};
use crate::attest::Attestor;

mod request;

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
    /// Attest this live process (of another user: as root).
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Judge these selectors instead of a live process, e.g. `unix:uid:1000`.
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    pub selectors: Vec<String>,
    /// The request as it would be sent to 169.254.169.254, e.g. `GET
    /// /metadata/identity/oauth2/token?resource=https://vault.azure.net`. `Metadata: true`, and `api-version` where it is
    /// absent, are added.
    #[arg(long, value_name = "REQUEST")]
    pub request: String,
    /// Print the trace as JSON.
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// Exit code 2 where the policy, the selectors or the request have errors, 1 where the process can't be attested.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let files = check::read(std::slice::from_ref(&args.config));
    let compiled = check::compile(files)
        .map_err(|diagnostics| Failure::new(Exit::Usage, diagnostics.to_string().trim_end()))?;
    let caller = match args.pid {
        Some(pid) => attest(pid)?,
        None => {
            Selectors::parse(&args.selectors.join(" ")).map_err(|e| Failure::new(Exit::Usage, e))?
        }
    };
    let request = request::parse(&args.request).map_err(|e| Failure::new(Exit::Usage, e))?;
    let now = jiff::Timestamp::now().as_second();
    let explanation = compiled.policy.explain(&caller, &request, now);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&explanation)?)?;
    } else {
        write!(out, "{}", tables(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn attest(pid: u32) -> Result<Selectors, Failure> {
    let mut attestor =
        Attestor::new(None).map_err(|e| Failure::new(Exit::Environment, format_args!("{e}")))?;
    attestor.wants_hash(true);
    let record = attestor.record_of(pid)?;
    Ok(attestor.attest(&record)?.selectors.clone())
}

/// The explanation for people.
fn tables(explanation: &Explanation) -> String {
    let mut selectors = table(["selector", "evidence", ""]);
    for found in &explanation.selectors {
        let mark = if found.caller_influenced {
            "the caller can choose it"
        } else {
            ""
        };
        selectors.add_row([&*found.selector, &*found.evidence, mark]);
    }
    let mut workloads = table(["workload", "matches", "because"]);
    for considered in &explanation.workloads {
        let states = considered.selectors.iter();
        let states: Vec<String> = states.map(|(s, state)| format!("{s}: {state}")).collect();
        let matches = if considered.matches { "yes" } else { "no" };
        workloads.add_row([&*considered.workload, matches, &states.join("\n")]);
    }
    let mut rules = table(["rule", "effect", "holds", "because"]);
    for rule in &explanation.rules {
        let place = format!("{}\n{}:{}", rule.rule.name, rule.rule.file, rule.rule.line);
        let holds = if rule.holds { "yes" } else { "no" };
        rules.add_row([&*place, rule.effect, holds, &rule.why]);
    }
    let others = explanation.other_workloads;
    let verdict = &explanation.verdict;
    let word = match (explanation.mode, verdict.allowed) {
        (Mode::Observe, true) => {
            "NOT TOUCHED: the endpoint is in observe. In enforce it would be allowed"
        }
        (Mode::Observe, false) => {
            "NOT TOUCHED: the endpoint is in observe. In enforce it would be denied"
        }
        (_, true) => "ALLOWED",
        (_, false) => "DENIED",
    };
    let would = verdict.would_deny.as_ref().map(|denial| {
        let why = imds_guard_core::policy::explain::in_words(denial);
        format!("\nwould be denied in enforce mode: {why}")
    });
    format!(
        "{selectors}\n{workloads}\nworkloads of which it has no selector: {others}\n{rules}\n{word}: {}{}\n",
        verdict.what,
        would.unwrap_or_default()
    )
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_BORDERS_ONLY_CONDENSED);
    table.set_header(header);
    table
}
