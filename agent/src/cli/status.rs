//! `imds-guard status`: the guard in a few lines. Prints what was found; judges nothing (that is `doctor`).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, Failure};
use crate::doctor;
use crate::intercept::Mode;
use crate::status::{self, Note, Report, Trial};

/// Arguments of `status`. The places are those that `run` was given; the defaults are those of the packaged units.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Where the guard has its lock.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  a guard runs
  1  no guard runs
  5  it could not be looked at: run it as root
Whether each layer is in force, and what leads round them, is for `imds-guard doctor` to say.
Without root, `systemctl status imds-guard` shows the mode of each address and the policy's epoch.";

/// # Errors
/// Where stdout can't be written.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let report = status::look(&args.run_dir, &args.pin_dir);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", told(&report))?;
    }
    Ok(match report.running {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => Exit::Failed.into(),
        None => Exit::Unknown.into(),
    })
}

/// The report for people.
fn told(report: &Report) -> String {
    let mut lines = Lines::default();
    match (report.running, &report.guard) {
        (Some(true), Some(note)) => guard(&mut lines, note),
        (Some(true), None) => lines.add(
            "guard",
            &format!(
                "runs as pid {}, and has not said yet what it does",
                report.pid.unwrap_or_default()
            ),
        ),
        (Some(false), _) => lines.add("guard", "does not run"),
        (None, _) => lines.add("guard", "unknown"),
    }
    endpoints(&mut lines, report);
    for live in report.bypasses.iter().flatten() {
        lines.add("BYPASS", &super::bypass::told(live));
    }
    recent(&mut lines, report);
    for why in &report.unknown {
        lines.add("unknown", why);
    }
    let next = next(report);
    if !next.is_empty() {
        lines.add("next", next);
    }
    lines.0
}

/// Lines with a word before them.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, head: &str, rest: &str) {
        let _infallible = writeln!(self.0, "{head:<10} {rest}");
    }
}

fn guard(lines: &mut Lines, note: &Note) {
    let Note {
        pid,
        version,
        since,
        policy,
        ..
    } = note;
    lines.add(
        "guard",
        &format!("runs as pid {pid} since {since}, version {version}"),
    );
    lines.add(
        "policy",
        &format!(
            "{}, epoch {} ({}): {} workloads, {} rules",
            policy.file.display(),
            policy.epoch,
            policy.digest,
            policy.workloads,
            policy.rules
        ),
    );
    if let Some(why) = &note.refused {
        lines.add("", &format!("the last reload was refused: {why}"));
    }
    if let Some(trial) = &note.trial {
        lines.add("trial", &on_trial(trial));
    }
    if note.lifelines_used > 0 {
        let told = "connections by a lifeline, before this guard came: the audit file has each, with reason `lifeline`";
        lines.add("LIFELINE", &format!("{} {told}", note.lifelines_used));
    }
}

fn on_trial(trial: &Trial) -> String {
    let Trial {
        digest,
        earlier,
        until,
        went_back,
    } = trial;
    match (until, went_back) {
        (Some(until), _) => format!(
            "{digest} has to be confirmed before {until} (`imds-guard confirm`), or {earlier} comes back"
        ),
        (None, at) => format!(
            "nobody confirmed {digest}: at {} {earlier} came back. The files may still hold the other; `imds-guard reload` takes them",
            at.as_deref().unwrap_or("its end")
        ),
    }
}

fn endpoints(lines: &mut Lines, report: &Report) {
    let Some(endpoints) = &report.endpoints else {
        return;
    };
    if endpoints.is_empty() {
        lines.add("kernel", "guards nothing");
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let head = if at == 0 { "kernel" } else { "" };
        let names = endpoint.names.join(", ");
        let line = format!(
            "{:<8} {:<20} {names}",
            doctor::word(endpoint.mode),
            endpoint.address
        );
        lines.add(head, line.trim_end());
    }
}

fn recent(lines: &mut Lines, report: &Report) {
    let Some(recent) = &report.recent else {
        return;
    };
    let since = recent.since.as_deref().unwrap_or("its beginning");
    lines.add(
        "audit",
        &format!(
            "{} allowed ({} of them would be denied in enforce), {} denied, {} ended otherwise, {} connections observed",
            recent.allowed, recent.would_deny, recent.denied, recent.other, recent.observed
        ),
    );
    lines.add("", &format!("in {} since {since}", recent.file.display()));
}

/// What an operator may want to do now.
fn next(report: &Report) -> &'static str {
    match (report.running, report.strictest()) {
        (Some(true), Some(Mode::Observe)) => {
            "nothing is refused, callers are noted alone. Read the audit file, write rules, say `audit` under [endpoints], `systemctl reload imds-guard`"
        }
        (Some(true), Some(Mode::Audit)) => {
            "what no rule grants is passed on, and recorded with `would_deny`. When no such lines come any more, say `enforce` under [endpoints], and reload"
        }
        (Some(false), Some(Mode::Enforce)) => {
            "callers are refused until it runs again: `systemctl start imds-guard`; `imds-guard teardown` gives the addresses back, unguarded"
        }
        (Some(false), Some(Mode::Observe | Mode::Audit)) => {
            "its programs are still in the kernel, and refuse nobody: `systemctl start imds-guard`, or `imds-guard teardown`"
        }
        (Some(false), None) => "`systemctl start imds-guard`",
        (None, _) => "run this as root",
        (Some(true), None | Some(Mode::Enforce)) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Endpoint;

    fn report(running: Option<bool>, modes: &[Mode]) -> Report {
        let endpoints = modes.iter().map(|mode| Endpoint {
            address: "169.254.169.254:80".parse().unwrap(),
            mode: *mode,
            names: vec!["azure-imds".into()],
        });
        Report {
            running,
            pid: None,
            guard: None,
            endpoints: Some(endpoints.collect()),
            bypasses: Some(vec![]),
            recent: None,
            unknown: vec![],
        }
    }

    #[test]
    fn the_strictest_mode_says_what_comes_next() {
        let text = told(&report(Some(true), &[Mode::Observe]));
        assert!(
            text.contains("kernel     observe  169.254.169.254:80   azure-imds\n"),
            "{text}"
        );
        assert!(text.contains("`audit` under"), "{text}");
        let text = told(&report(Some(true), &[Mode::Observe, Mode::Audit]));
        assert!(text.contains("would_deny"), "{text}");
        let text = told(&report(Some(true), &[Mode::Enforce, Mode::Observe]));
        assert!(!text.contains("next"), "{text}");
    }

    #[test]
    fn a_guard_that_is_gone_is_told_with_what_it_left() {
        let text = told(&report(Some(false), &[Mode::Enforce]));
        assert!(
            text.contains("does not run") && text.contains("refused until"),
            "{text}"
        );
        let text = told(&report(Some(false), &[]));
        assert!(text.contains("guards nothing"), "{text}");
        assert!(told(&report(None, &[])).contains("as root"));
    }
}
