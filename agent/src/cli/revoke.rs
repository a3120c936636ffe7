//! `imds-guard revoke`: has the running guard end what was given, and says what lives on.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Exit, Failure, reload};
use crate::control::Ask;
use crate::handed;

/// How much of the audit file's end is read: some hundred thousand lines.
const TAIL: u64 = 64 << 20;

/// How long the proxy may hold records of what it gave before it writes them, many times over (`proxy/sink.rs`, 20 ms): without it
/// the last credential that was given would be missing from what lives on.
const RECORDED: Duration = Duration::from_millis(300);

/// Arguments of `revoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this workload of the policy; without it, of all.
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// The run directory of the guard that is asked.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
    /// Where the guard pins its programs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
}

/// # Errors
/// Exit code 1 where no guard runs or it refuses, with nothing revoked; also where it is done and what lives on can't be told.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let workload = args.workload.clone();
    reload::ask(&args.run_dir, &Ask::Revoke { workload })?;
    std::thread::sleep(RECORDED);
    let guard = crate::status::look(&args.run_dir, &args.pin_dir).guard;
    let Some(file) = guard.and_then(|note| note.audit) else {
        let told = "it is done, but what was handed out and lives on can't be told: the audit records aren't in a file; look for `credential.expires` where they go";
        return Err(Failure::new(Exit::Failed, told));
    };
    let text = tail(&file).map_err(|error| {
        let told = format!(
            "it is done, but what lives on can't be told: {}: {error}",
            file.display()
        );
        Failure::new(Exit::Failed, told)
    })?;
    tell(&text, args.workload.as_deref(), &file)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(text: &str, workload: Option<&str>, file: &Path) -> std::io::Result<()> {
    let now = jiff::Timestamp::now();
    let second = now.as_second();
    let all = handed::living(text, workload, second);
    let mut out = std::io::stdout();
    let known = text.lines().next().and_then(|line| {
        let line = serde_json::from_str::<serde_json::Value>(line).ok()?;
        Some(line["time"].as_str()?.to_owned())
    });
    let since = known.unwrap_or_else(|| "its beginning".into());
    writeln!(
        out,
        "handed out before and alive: {}, by {} from {since} on",
        all.len(),
        file.display()
    )?;
    let now = jiff::Timestamp::from_second(second)
        .unwrap_or(now)
        .to_string();
    for one in all {
        let until = jiff::Timestamp::from_second(one.expires).unwrap_or_default();
        writeln!(
            out,
            "- {} of `{}`, identity `{}`, for {}, until {until}\n  {}",
            one.id,
            one.workload,
            one.identity,
            one.resource,
            one.remedy(&now)
        )?;
    }
    Ok(())
}

/// Whole lines from the end of the file.
fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let from = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![];
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = text.split_once('\n').map_or("", |(_, rest)| rest);
    Ok(if from == 0 {
        text.into_owned()
    } else {
        cut.to_owned()
    })
}
