//! `imds-guard doctor`: whether each layer is in force, and what leads round them. Prints what was found; judges nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::Table;

use super::{Exit, Failure};
use crate::doctor::{self, CHECKS, Finding, Question, Report, State};

/// Arguments of `doctor`. The places are those that `run` was given; the defaults are those of the packaged units.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
pub struct Args {
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Where the guard has its lock.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
    /// Cgroup below which callers should be guarded [default: the root of the cgroup2 hierarchy].
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Loopback port of the listeners.
    #[arg(long, value_name = "PORT", default_value_t = 8788)]
    pub port: u16,
    /// A check whose finding you know and accept: it is still told, and doesn't count for the exit code. May be repeated.
    #[arg(long, value_name = "CHECK", value_parser = clap::builder::PossibleValuesParser::new(CHECKS))]
    pub accept: Vec<String>,
    /// Print as JSON; the form is documented in agent/docs/doctor.md.
    #[arg(long)]
    pub json: bool,
}

const EXIT_CODES: &str = "\
Exit codes (what is accepted doesn't count):
  0  covered: every layer is in force, and no way round was found
  1  open: there is a way round, or nothing is guarded
  4  weak: no way round by itself, but something makes one easier
  5  unknown: nothing open was found, but something could not be looked at
  2, 3 are those of every command: bad usage; a machine without /proc or the like

It reads alone: it attaches nothing, sends nothing, changes nothing. Without root it says what it couldn't look at.
Run it on the host, in the host's network namespace: that is the one it calls its own.";

/// # Errors
/// Where stdout can't be written.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let facts = doctor::look(&Question {
        pin_dir: args.pin_dir,
        run_dir: args.run_dir,
        cgroup_root: args.cgroup_root,
        port: args.port,
    });
    let report = doctor::judge(&facts, &args.accept);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", told(&report))?;
    }
    Ok(match report.verdict {
        State::Ok => ExitCode::SUCCESS,
        State::Open => Exit::Failed.into(),
        State::Weak => Exit::Weak.into(),
        State::Unknown => Exit::Unknown.into(),
    })
}

/// The report for people: coverage first, then findings, the worst first.
fn told(report: &Report) -> String {
    let mut layers = Table::new();
    layers.load_preset(comfy_table::presets::ASCII_BORDERS_ONLY_CONDENSED);
    layers.set_header(["layer", "state", "where, or what is missing", "stops"]);
    for layer in &report.layers {
        let need = if layer.required { "" } else { " (optional)" };
        let name = format!("{}{need}", layer.layer);
        layers.add_row([&*name, layer.state.word(), &layer.what, layer.stops]);
    }
    let mut text = format!("{layers}\n");
    if !report.endpoints.is_empty() {
        let all = report.endpoints.iter();
        let all: Vec<String> = all.map(|e| format!("{} {}", e.address, e.mode)).collect();
        text += &format!("guarded: {}\n", all.join(", "));
    }
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|f| std::cmp::Reverse((!f.accepted, f.state)));
    for finding in findings {
        text += &block(finding);
    }
    let word = match report.verdict {
        State::Ok => "COVERED",
        State::Weak => "WEAK",
        State::Unknown => "UNKNOWN",
        State::Open => "OPEN",
    };
    text + &format!("\n{word}\n")
}

/// One finding: a line, and where it isn't well, what it is about, what it means and what to do.
fn block(finding: &Finding) -> String {
    let word = if finding.accepted {
        "accepted"
    } else {
        finding.state.word()
    };
    let mut text = String::new();
    let mut line = |head: &str, rest: &str| {
        text += format!("{head:<9}{rest}").trim_end();
        text.push('\n');
    };
    if finding.state != State::Ok {
        line("", "");
    }
    line(word, &format!("{}: {}", finding.check, finding.what));
    let shown = if finding.state == State::Ok { 0 } else { SHOWN };
    for subject in finding.subjects.iter().take(shown) {
        line("", &format!("  {subject}"));
    }
    if shown > 0 && finding.subjects.len() > shown {
        line(
            "",
            &format!(
                "  and {} more (--json has all)",
                finding.subjects.len() - shown
            ),
        );
    }
    for (head, rest) in [("means", &finding.means), ("do", &finding.remedy)] {
        if !rest.is_empty() {
            line("", &format!("{head}: {rest}"));
        }
    }
    text
}

/// How many subjects of a finding are shown to people.
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser as _;

    #[test]
    fn only_checks_that_exist_can_be_accepted() {
        assert!(Cli::try_parse_from(["imds-guard", "doctor", "--accept", "vsock"]).is_ok());
        assert!(Cli::try_parse_from(["imds-guard", "doctor", "--accept", "everything"]).is_err());
    }
}
