//! `imds-guard check`: reads configuration and policy, and reports every error at once. It judges what files say, so that
//! it works in a pipeline that isn't root; whose files they are is judged by `run`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imds_guard_core::policy::{
    self, Compiled, Diagnostic, Diagnostics, Mode, Place, Settings, Severity, Source,
};
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
    let result = compile(read(&args.files)).and_then(trusting);
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
            write!(out, "{}", modes(&compiled.settings))?;
        }
        Err(diagnostics) if args.json => {
            let findings = diagnostics.findings();
            writeln!(out, "{}", json!({ "ok": false, "findings": findings }))?;
            return Ok(Exit::Usage.into());
        }
        Err(diagnostics) => {
            let told = diagnostics.to_string();
            return Err(Failure::new(Exit::Usage, told.trim_end()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn accepted(compiled: &Compiled) -> serde_json::Value {
    let modes = compiled.settings.modes();
    let endpoints: BTreeMap<&str, &str> = modes
        .iter()
        .map(|(endpoint, mode)| (&*endpoint.name, mode.word()))
        .collect();
    json!({
        "ok": true,
        "workloads": compiled.policy.workload_count(),
        "rules": compiled.policy.rules(),
        "endpoints": endpoints,
        "findings": compiled.warnings.findings(),
    })
}

/// What is in force with these files, a line for each mode.
fn modes(settings: &Settings) -> String {
    let all = settings.modes();
    let of = |wanted| {
        let names = all.iter().filter(|(_, mode)| *mode == wanted);
        let names: Vec<&str> = names.map(|(endpoint, _)| &*endpoint.name).collect();
        names.join(", ")
    };
    let says = [
        (Mode::Enforce, "what isn't granted is refused"),
        (Mode::Audit, "what isn't granted passes, and is recorded"),
        (Mode::Observe, "not touched"),
    ];
    let lines = says.map(|(mode, what)| match of(mode) {
        none if none.is_empty() => String::new(),
        names => format!("{} ({what}): {names}\n", mode.word()),
    });
    let nothing = all.iter().all(|(_, mode)| *mode == Mode::Observe);
    let warning = "nothing is guarded: every endpoint is in observe\n";
    lines.concat() + if nothing { warning } else { "" }
}

/// Files as they are, and what is to be said of those that can't be read.
pub(super) struct Files {
    sources: Vec<Source>,
    unread: Vec<Diagnostic>,
}

/// Compiles with this machine's name and clock. A file that can't be read doesn't hide what is wrong in the others.
pub(super) fn compile(files: Files) -> Result<Compiled, Diagnostics> {
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let now = jiff::Timestamp::now().as_second();
    let compiled = policy::compile(&files.sources, &hostname.to_string_lossy(), now);
    if files.unread.is_empty() {
        return compiled;
    }
    let mut diagnostics = compiled.map_or_else(|errors| errors, |compiled| compiled.warnings);
    diagnostics.all.splice(0..0, files.unread);
    Err(diagnostics)
}

/// Beside the policy, the one file that it rests on.
fn trusting(compiled: Compiled) -> Result<Compiled, Diagnostics> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    trust::roots(&compiled, read)?;
    Ok(compiled)
}

/// Reads the files, and what the main one includes where it stands alone.
pub(super) fn read(files: &[PathBuf]) -> Files {
    let mut all = Files {
        sources: vec![],
        unread: vec![],
    };
    let (main, mut others) = files
        .split_first()
        .map_or((None, vec![]), |(main, others)| {
            (Some(main), others.to_vec())
        });
    if let Some(main) = main {
        all.add(main);
        if others.is_empty() {
            others = all.included(main);
        }
    }
    // In the order in which they are compiled.
    others.sort_by_key(|file| file.display().to_string());
    others.dedup();
    for file in &others {
        all.add(file);
    }
    all
}

impl Files {
    /// What the main file includes.
    fn included(&mut self, main: &Path) -> Vec<PathBuf> {
        // What else is wrong with it is told when it is compiled.
        let includes = policy::includes(&self.sources[0]).map(|includes| includes.files);
        let folder = main.parent().unwrap_or(Path::new("/"));
        let mut files = vec![];
        for (entry, place) in includes.unwrap_or_default() {
            match include::expand(folder, &entry) {
                Ok(found) => {
                    let others = found.into_iter().filter(|file| file != main);
                    let (there, gone): (Vec<_>, Vec<_>) = others.partition(|file| file.exists());
                    files.extend(there);
                    let gone = gone.iter().map(|file| (file, place.clone()));
                    let gone = gone.map(|(file, place)| {
                        unreadable(place, file, &std::io::ErrorKind::NotFound.into())
                    });
                    self.unread.extend(gone);
                }
                Err(error) => self.unread.push(Diagnostic {
                    severity: Severity::Error,
                    place,
                    title: error.to_string(),
                    help: String::new(),
                }),
            }
        }
        files
    }

    fn add(&mut self, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
            let source = self.sources.len();
            let place = Place {
                source,
                ..Place::default()
            };
            self.unread.push(unreadable(place, file, &error));
            String::new()
        });
        self.sources.push(Source {
            name: file.display().to_string().into(),
            text: text.into(),
        });
    }
}

fn unreadable(place: Place, file: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        place,
        title: format!("{} can't be read: {error}", file.display()),
        help: "name a policy file".into(),
    }
}
