//! Break-glass for one workload: which of the kernel's scopes are meant by a name, and the one way to begin and to end a bypass,
//! with its audit line. Works with nobody but the kernel there.
//!
//! Must never: begin what is not in the audit file, or let more pass than the workload's own selectors do.

use std::io;
use std::path::Path;
use std::time::Duration;

use imds_guard_core::audit;
use imds_guard_ebpf::{ANY_USER, Bypass, Scope};

use crate::guard::Audit;
use crate::intercept::bypasses::{Live, fixed};
use crate::intercept::{Bypasses, InterceptError};
use crate::sys::clock;

pub mod scopes;

/// Longest time, in hours: what has to pass for longer is policy.
pub const LONGEST_HOURS: u64 = 8;

/// Why it didn't begin or end.
#[derive(Debug, thiserror::Error)]
pub enum BypassError {
    /// The kernel.
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    /// Nothing is in force.
    #[error("nothing is pinned, so nothing is guarded: no bypass is needed")]
    NothingGuarded,
    /// Without a record there is no bypass.
    #[error(
        "the audit record can't be written, so nothing passes: {0}: name another file with --audit"
    )]
    Audit(#[source] io::Error),
    /// One of the scopes has one.
    #[error(
        "somebody of these is bypassed already: `imds-guard bypass --list`, and end that one first"
    )]
    Already,
    /// No such bypass.
    #[error("there is no bypass {0}: `imds-guard bypass --list` shows all")]
    Unknown(String),
    /// No random number for its id.
    #[error("no random numbers")]
    Random,
}

/// What is to pass.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The workload, or what else was named.
    pub name: String,
    /// Whose connections.
    pub scopes: Vec<scopes::Found>,
    /// For how long.
    pub length: Duration,
    /// Why.
    pub reason: String,
}

/// The table of this pin directory.
///
/// # Errors
/// [`BypassError::NothingGuarded`], [`BypassError::Intercept`].
pub fn table(pin_dir: &Path) -> Result<Bypasses, BypassError> {
    Bypasses::open(pin_dir)?.ok_or(BypassError::NothingGuarded)
}

/// Begins one, with its record first.
///
/// # Errors
/// [`BypassError`]; then nothing passes.
pub fn begin(
    table: &mut Bypasses,
    audit: &mut Audit,
    wanted: &Wanted,
) -> Result<Live, BypassError> {
    let since_boot = clock::since_boot();
    sweep(table, audit, since_boot)?;
    let bypass = entry(wanted, since_boot)?;
    let scopes: Vec<Scope> = wanted.scopes.iter().map(|found| found.scope).collect();
    let mut live = Live::of(&bypass, since_boot);
    live.scopes.clone_from(&scopes);
    let told: Vec<String> = wanted
        .scopes
        .iter()
        .map(|found| found.told.clone())
        .collect();
    tell(audit, "begun", &live, &told).map_err(BypassError::Audit)?;
    match table.begin(&scopes, &bypass) {
        Ok(true) => Ok(live),
        other => {
            let told = tell(audit, "ended", &live, &told);
            other?;
            told.map_err(BypassError::Audit)?;
            Err(BypassError::Already)
        }
    }
}

/// Removes those whose time is over, which a guard does where one lives: they let nobody pass, and would be in the way.
fn sweep(table: &mut Bypasses, audit: &mut Audit, now: Duration) -> Result<(), BypassError> {
    for over in table.all(now)?.iter().filter(|live| live.left_s == 0) {
        table.end(over)?;
        tell(audit, "expired", over, &scopes::told(&over.scopes)).map_err(BypassError::Audit)?;
    }
    Ok(())
}

fn entry(wanted: &Wanted, since_boot: Duration) -> Result<Bypass, BypassError> {
    let mut id = [0; 4];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| BypassError::Random)?;
    let until = since_boot + wanted.length;
    let began = jiff::Timestamp::now().as_second();
    Ok(Bypass {
        until_ns: u64::try_from(until.as_nanos()).unwrap_or(0),
        began,
        ends: began.saturating_add_unsigned(wanted.length.as_secs()),
        id: u32::from_ne_bytes(id),
        by: login_user().unwrap_or(ANY_USER),
        name: fixed(&wanted.name),
        reason: fixed(&wanted.reason),
    })
}

/// Who had logged in, whatever became of the user id since.
fn login_user() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != ANY_USER)
}

/// Ends one before its time. The end comes first: a record that can't be written must not keep it open.
///
/// # Errors
/// [`BypassError`].
pub fn end(table: &mut Bypasses, audit: &mut Audit, id: &str) -> Result<Live, BypassError> {
    let all = table.all(clock::since_boot())?;
    let found = all.into_iter().find(|live| live.id == id);
    let live = found.ok_or_else(|| BypassError::Unknown(id.to_owned()))?;
    table.end(&live)?;
    let change = if live.left_s > 0 { "ended" } else { "expired" };
    tell(audit, change, &live, &scopes::told(&live.scopes)).map_err(BypassError::Audit)?;
    Ok(live)
}

/// Writes the record.
///
/// # Errors
/// Where it can't be written.
pub(crate) fn tell(
    audit: &mut Audit,
    change: &'static str,
    live: &Live,
    scopes: &[String],
) -> io::Result<()> {
    audit.bypass(audit::Bypass {
        time: jiff::Timestamp::now(),
        change,
        id: &live.id,
        name: &live.name,
        scopes,
        reason: &live.reason,
        until: &live.until,
        by: live.by,
    })
}
