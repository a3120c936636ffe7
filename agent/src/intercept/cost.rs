//! What the programs cost: the kernel's own run statistics, for benches and for an operator who asks.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use aya::sys::{Stats, enable_stats};

use super::{
    InterceptError,
    load::{OPTIONAL, PROGRAMS},
    pins,
};
use crate::sys::bpf;

/// Runs of one program since it was loaded, as far as they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub program: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long in all, the counting included (some 20 to 40 ns per run).
    pub time: Duration,
}

impl ProgramCost {
    /// Nanoseconds per run since `before`; `None` if it did not run.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn nanoseconds_per_run_since(&self, before: &Self) -> Option<f64> {
        let runs = self.runs.checked_sub(before.runs).filter(|n| *n > 0)?;
        Some((self.time.saturating_sub(before.time)).as_nanos() as f64 / runs as f64)
    }
}

/// Has the kernel count, for all programs of the machine, while the descriptor lives.
///
/// # Errors
/// [`InterceptError::NotPermitted`].
pub fn count() -> Result<OwnedFd, InterceptError> {
    enable_stats(Stats::RunTime)
        .map_err(|e| InterceptError::system("counting program runs")(e.io_error))
}

/// What each program pinned in `pin_dir` has cost.
///
/// # Errors
/// If nothing is pinned there, or without the right.
pub fn costs(pin_dir: &Path) -> Result<Vec<ProgramCost>, InterceptError> {
    let links = pins::links(pin_dir);
    let mut costs = Vec::new();
    for program in PROGRAMS.into_iter().chain(OPTIONAL) {
        let link = match bpf::open_pinned(&links.join(program)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && OPTIONAL.contains(&program) => {
                continue;
            }
            link => link.map_err(InterceptError::system("opening a pinned link"))?,
        };
        let at = bpf::link_info(link.as_fd()).map_err(InterceptError::system("reading a link"))?;
        let info = aya::programs::loaded_programs()
            .flatten()
            .find(|p| p.id() == at.program_id);
        if let Some(info) = info {
            costs.push(ProgramCost {
                program,
                runs: info.run_count(),
                time: info.run_time(),
            });
        }
    }
    Ok(costs)
}
