//! What processes use: CPU time and memory, from /proc.

use anyhow::{Context, Result};
use std::fs;

/// CPU time that `pids` have used in all, in user and kernel mode together, in microseconds. Resolution: one clock tick.
pub(crate) fn cpu_us(pids: &[u32]) -> Result<f64> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?
        .context("no CLK_TCK")
        .and_then(|ticks| Ok(f64::from(i32::try_from(ticks)?)))?;
    let mut ticks = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        // After the command's name, which may hold anything: state is field 3, utime 14, stime 15.
        let fields = text
            .rsplit_once(") ")
            .map(|(_, rest)| rest)
            .with_context(|| path.clone())?;
        for field in fields.split(' ').skip(11).take(2) {
            ticks += field.parse::<f64>().with_context(|| path.clone())?;
        }
    }
    Ok(ticks / per_second * 1e6)
}

/// Proportional set size of `pids` together, in MiB: shared pages are counted once, divided among who shares them.
pub(crate) fn pss_mib(pids: &[u32]) -> Result<f64> {
    let mut kib = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let field = line.and_then(|line| line.split_whitespace().next());
        kib += field.context("no Pss")?.parse::<f64>()?;
    }
    Ok(kib / 1024.0)
}

/// A sentence on what else the machine was doing when the bench began.
pub(crate) fn elsewhere() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let load: f64 = text.split(' ').next().context("no load")?.parse()?;
    Ok(if load < 1.0 {
        format!("Nothing else was going on (load {load}).")
    } else {
        format!(
            "The machine was busy with other things (load {load}): throughput and latency say little, CPU per request says more."
        )
    })
}
