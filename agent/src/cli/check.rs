//! `imds-guard check`: reads configuration and policy, and reports every error at once. It judges what files say, so that
//! it works in a pipeline that isn't root; whose files they are is judged by `run`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imds_guard_core::policy::{self, Compiled, Diagnostics, Source};
use serde_json::json;

use super::{Exit, Failure};
use crate::config::{include, trust};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The main file, whose includes are read, too; or the main file and policy files, to be judged together.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// Exit code 2 with the findings when a file has errors.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let result = read(&args.files)
        .and_then(|sources| compile(&sources))
        .and_then(trusting);
    let mut out = std::io::stdout();
    match result {
        Ok(compiled) if args.json => writeln!(out, "{}", accepted(&compiled))?,
        Ok(compiled) => {
            write!(out, "{}", compiled.warnings)?;
            let rules = compiled.policy.rules();
            let (workloads, warnings) = (
                compiled.policy.workload_count(),
                compiled.warnings.all.len(),
            );
            writeln!(
                out,
                "ok: {workloads} workloads, {rules} rules, {warnings} warnings"
            )?;
        }
        Err(Bad::Policy(diagnostics)) if args.json => {
            let findings = diagnostics.findings();
            writeln!(out, "{}", json!({ "ok": false, "findings": findings }))?;
            return Ok(Exit::Usage.into());
        }
        Err(Bad::Policy(diagnostics)) => {
            let told = diagnostics.to_string();
            return Err(Failure::new(Exit::Usage, told.trim_end()));
        }
        Err(Bad::File(told)) => return Err(Failure::new(Exit::Usage, told)),
    }
    Ok(ExitCode::SUCCESS)
}

fn accepted(compiled: &Compiled) -> serde_json::Value {
    json!({
        "ok": true,
        "workloads": compiled.policy.workload_count(),
        "rules": compiled.policy.rules(),
        "findings": compiled.warnings.findings(),
    })
}

/// Why files are not accepted.
pub(super) enum Bad {
    File(String),
    Policy(Diagnostics),
}

/// Compiles with this machine's name and clock.
pub(super) fn compile(sources: &[Source]) -> Result<Compiled, Bad> {
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let now = jiff::Timestamp::now().as_second();
    policy::compile(sources, &hostname.to_string_lossy(), now).map_err(Bad::Policy)
}

/// Beside the policy, the one file that it rests on.
fn trusting(compiled: Compiled) -> Result<Compiled, Bad> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    match trust::roots(&compiled, read) {
        Ok(_) => Ok(compiled),
        Err(diagnostics) => Err(Bad::Policy(diagnostics)),
    }
}

/// Reads the files, and what the main one includes where it stands alone.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Source>, Bad> {
    let mut sources = files
        .iter()
        .map(|f| source(f))
        .collect::<Result<Vec<_>, _>>()?;
    if let ([main], [file]) = (&sources[..], files) {
        let includes = policy::includes(main).map_err(Bad::Policy)?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let mut included = vec![];
        for entry in &includes.files {
            let found = include::expand(folder, entry).map_err(|e| Bad::File(e.to_string()))?;
            included.extend(found.into_iter().filter(|f| f != file));
        }
        included.sort();
        included.dedup();
        for file in &included {
            sources.push(source(file)?);
        }
    }
    Ok(sources)
}

fn source(file: &Path) -> Result<Source, Bad> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Bad::File(format!("{name} can't be read: {error}; name a policy file")))?;
    Ok(Source {
        name: name.into(),
        text: text.into(),
    })
}
