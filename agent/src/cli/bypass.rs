//! `imds-guard bypass`: break-glass for one workload. Reads arguments and files, prints; what passes is `crate::bypass`'s.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Exit, Failure, check, span};
use crate::bypass::{self, BypassError, LONGEST_HOURS, Wanted, scopes};
use crate::guard::Audit;
use crate::intercept::bypasses::{Live, NAME_LIMIT, REASON_LIMIT};
use crate::intercept::{Bypasses, InterceptError};
use crate::sys::clock;

/// Where the packaged unit has its audit records.
const AUDIT: &str = "/var/log/imds-guard/audit.jsonl";

/// Arguments of `bypass`. The places are those that `run` was given; the defaults are those of the packaged units.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("whom").required(true).multiple(true).args(["workload", "cgroup", "uid", "list", "end"])))]
pub struct Args {
    /// Whom: a workload of the policy. One that the kernel can't tell by its cgroup and user alone is refused.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["cgroup", "uid", "list", "end"])]
    pub workload: Option<String>,
    /// Whom: what runs in this cgroup and those below it now; its directory, or its path below the mount.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["list", "end"])]
    pub cgroup: Option<PathBuf>,
    /// Whom: processes of this user; with --cgroup those of it in that cgroup.
    #[arg(long, value_name = "UID", conflicts_with_all = ["list", "end"])]
    pub uid: Option<u32>,
    /// For how long: 90s, 30m, 2h; at most 8h. It ends by itself, also where no guard runs.
    #[arg(long = "for", value_name = "TIME", value_parser = length, required_unless_present_any = ["list", "end"])]
    pub length: Option<Duration>,
    /// Why, for the audit file; 192 bytes at most.
    #[arg(long, value_name = "TEXT", value_parser = reason, required_unless_present_any = ["list", "end"])]
    pub reason: Option<String>,
    /// Show those that are in force.
    #[arg(long, conflicts_with = "end")]
    pub list: bool,
    /// End this one now.
    #[arg(long, value_name = "ID")]
    pub end: Option<String>,
    /// With --list: as JSON.
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Main configuration file, for --workload.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// File to which the audit records are appended [default: that of the guard that runs, else what the configuration says, else
    /// /var/log/imds-guard/audit.jsonl where that directory is].
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Where kernel programs and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Run directory of the guard, if one runs.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
}

fn length(text: &str) -> Result<Duration, String> {
    span::parse_within(text, LONGEST_HOURS)
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why: whoever reads the audit file has nothing else".to_owned()),
        long if long.len() > REASON_LIMIT => Err(format!("at most {REASON_LIMIT} bytes")),
        text if text.contains(char::is_control) => Err("one line of text".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// # Errors
/// Exit code 1 where nothing passes for it (or nothing has ended), 2 for whom nobody but a guard can tell, 3 without the right.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(Exit::Environment, "that takes root: use sudo"));
    }
    if args.list {
        return list(args);
    }
    let mut table = bypass::table(&args.pin_dir).map_err(failed)?;
    let mut out = std::io::stdout();
    if let Some(id) = &args.end {
        let live = bypass::end(&mut table, &mut audit(args)?, id).map_err(failed)?;
        writeln!(out, "bypass {id} of {} has ended", live.name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let live = begin(args, &mut table)?;
    writeln!(
        out,
        "bypass {}: {} passes until {}, as if nothing were guarded; `imds-guard bypass --end {}` ends it before",
        live.id, live.name, live.until, live.id
    )?;
    for scope in scopes::told(&live.scopes) {
        writeln!(out, "  {scope}")?;
    }
    let elsewhere = scopes::elsewhere(&live.scopes);
    if elsewhere > 0 {
        writeln!(
            out,
            "but {elsewhere} of its processes are in network namespaces of their own: what those send is forwarded here, and what is enforced stays refused to them"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn begin(args: &Args, table: &mut Bypasses) -> Result<Live, Failure> {
    let (Some(length), Some(reason)) = (args.length, args.reason.clone()) else {
        return Err(Failure::new(Exit::Usage, "say --for and --reason"));
    };
    let found = match &args.workload {
        Some(name) => scopes::of_workload(&policy(&args.config)?, name),
        None => scopes::named(args.cgroup.as_deref(), args.uid),
    };
    let found = found.map_err(|error| Failure::new(Exit::Usage, error))?;
    let wanted = Wanted {
        name: name(args),
        scopes: found,
        length,
        reason,
    };
    let mut audit = audit(args)?;
    bypass::begin(table, &mut audit, &wanted).map_err(failed)
}

/// As it is told later; what is longer is cut at its end.
fn name(args: &Args) -> String {
    let cgroup = args.cgroup.as_ref().map(|path| path.display().to_string());
    let uid = args.uid.map(|uid| format!("uid {uid}"));
    let named: Vec<String> = args
        .workload
        .iter()
        .cloned()
        .chain(cgroup)
        .chain(uid)
        .collect();
    let mut name = named.join(" ");
    name.truncate(name.floor_char_boundary(NAME_LIMIT));
    name
}

fn policy(config: &Path) -> Result<imds_guard_core::policy::PolicySet, Failure> {
    let instead = "; --cgroup and --uid need no policy";
    let loaded = crate::config::load(config, "", jiff::Timestamp::now().as_second());
    let loaded =
        loaded.map_err(|error| Failure::new(Exit::Usage, format_args!("{error}{instead}")))?;
    Ok(loaded.compiled.policy)
}

/// Where records go. Without a place for them nothing passes.
fn audit(args: &Args) -> Result<Audit, Failure> {
    let named = args.audit.clone();
    let file = named
        .or_else(|| of_guard(args))
        .or_else(|| configured(&args.config));
    let packaged = || {
        let path = Path::new(AUDIT);
        let there = path.parent().is_some_and(Path::is_dir);
        there.then(|| path.to_owned())
    };
    let file = file.or_else(packaged).ok_or_else(|| {
        let told =
            "no audit file is configured, and a bypass is always audited: name one with --audit";
        Failure::new(Exit::Usage, told)
    })?;
    Audit::open(Some(&file)).map_err(|error| Failure::new(Exit::Failed, error))
}

fn of_guard(args: &Args) -> Option<PathBuf> {
    let report = crate::status::look(&args.run_dir, &args.pin_dir);
    report.guard?.audit
}

/// What the configuration says; one with errors says nothing, and must not be in the way here.
fn configured(config: &Path) -> Option<PathBuf> {
    let compiled = check::compile(check::read(&[config.to_owned()])).ok()?;
    compiled
        .settings
        .audit
        .file
        .map(|file| PathBuf::from(&*file))
}

fn list(args: &Args) -> Result<ExitCode, Failure> {
    let table = Bypasses::open(&args.pin_dir).map_err(|error| failed(error.into()))?;
    let all = table
        .map(|table| table.all(clock::since_boot()))
        .transpose();
    let mut all = all
        .map_err(|error| failed(error.into()))?
        .unwrap_or_default();
    all.retain(|live| live.left_s > 0);
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else if all.is_empty() {
        writeln!(out, "nobody is bypassed")?;
    }
    for live in all.iter().filter(|_| !args.json) {
        writeln!(out, "{}", told(live))?;
        for scope in scopes::told(&live.scopes) {
            writeln!(out, "  {scope}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One, in a line.
pub(super) fn told(live: &Live) -> String {
    let Live {
        id,
        name,
        reason,
        until,
        left_s,
        ..
    } = live;
    let by = live
        .by
        .map(|uid| format!(" by user {uid}"))
        .unwrap_or_default();
    format!("{id} {name} passes until {until} ({left_s} s){by}: {reason}")
}

fn failed(error: BypassError) -> Failure {
    let exit = match &error {
        BypassError::Intercept(InterceptError::NotPermitted { .. }) => Exit::Environment,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(reason(" incident 4711 ").as_deref(), Ok("incident 4711"));
        for bad in ["", "  ", "a\nb", &"x".repeat(193)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
        assert!(length("8h").is_ok() && length("481m").is_err());
    }
}
