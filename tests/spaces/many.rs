//! How soon a new namespace is served, and what very many of them cost. With `IMDS_GUARD_FULL=1` a thousand; the figures
//! are printed.

use anyhow::{Context as _, Result};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, World, binary, require};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use super::{TOKEN, soon, started};

struct Town {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Town {
    /// Once all have settled: what they say about that.
    fn found(world: &World, kind: &str, count: usize) -> Result<(Self, String)> {
        let settler = world.show(&binary("settler")?, "settler")?;
        let who = world.workload("settlers").uid(0).gid(0);
        let mut process = who.spawn(&settler, &[kind, &count.to_string(), AZURE_IMDS])?;
        let mut town = Self {
            to: process.stdin.take().context("no pipe")?,
            from: BufReader::new(process.stdout.take().context("no pipe")?),
            process,
        };
        let figures = town.line()?;
        Ok((town, figures))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        if line.is_empty() {
            let mut errors = String::new();
            let mut pipe = self.process.stderr.take().context("no pipe")?;
            std::io::Read::read_to_string(&mut pipe, &mut errors)?;
            anyhow::bail!("the settlers have ended: {errors}");
        }
        Ok(line.trim().to_owned())
    }

    /// All of them ask for a token: how many got which status.
    fn ask(&mut self) -> Result<String> {
        writeln!(self.to, "{TOKEN}")?;
        self.line()
    }

    fn leave(mut self) -> Result<()> {
        drop(self.to);
        self.process.wait()?;
        Ok(())
    }
}

fn figure(text: &str, name: &str) -> Result<u64> {
    let found = text
        .split(' ')
        .find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
    Ok(found.with_context(|| text.to_owned())?.parse()?)
}

/// Memory in KiB, processor time in ticks (of 10 ms), descriptors.
#[derive(Debug, Clone, Copy)]
struct Cost {
    pss: u64,
    ticks: u64,
    fds: usize,
}

impl Cost {
    fn of(pid: u32) -> Result<Self> {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:"));
        let pss = pss
            .and_then(|l| l.split_whitespace().next())
            .context("no Pss")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Ok(Self {
            pss: pss.parse()?,
            ticks: fields[11].parse::<u64>()? + fields[12].parse::<u64>()?,
            fds: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        })
    }

    fn of_both(agent: &AgentProcess) -> Result<[Self; 2]> {
        Ok([Self::of(agent.pid())?, Self::of(agent.children()[0])?])
    }
}

#[expect(clippy::print_stderr, reason = "figures, for whoever reads")]
fn show(what: &str) {
    eprintln!("{what}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_new_namespace_is_served_within_a_few_milliseconds() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("window")?;
    let _agent = started(&world)?;
    let (town, figures) = Town::found(&world, "row", 200)?;
    show(&format!("window: {figures}"));
    town.leave()?;
    // The aim is 1 ms; a machine that is busy with other things must not fail here.
    assert!(figure(&figures, "median_us")? < 5_000, "{figures}");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn very_many_namespaces_are_served_and_forgotten() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let full = std::env::var_os("IMDS_GUARD_FULL").is_some();
    let count = if full { 1000 } else { 50 };
    let world = World::new("many")?;
    let agent = started(&world)?;
    // It is all there once it has closed a connection; one that asks nothing leaves nothing behind.
    let idle = world.workload("idle").connect(AZURE_IMDS)?;
    drop(idle);
    let mut before = Cost::of_both(&agent)?;
    soon("rest", || {
        std::thread::sleep(Duration::from_millis(300));
        let last = std::mem::replace(&mut before, Cost::of_both(&agent)?);
        Ok(last.map(|cost| cost.fds) == before.map(|cost| cost.fds))
    })?;
    let (mut town, figures) = Town::found(&world, "town", count)?;
    show(&format!("{count} at once: {figures}"));
    let more = before.map(|cost| cost.fds + 2 * count);
    soon("two descriptors per namespace", || {
        let fds = Cost::of_both(&agent)?.map(|cost| cost.fds);
        Ok(fds.iter().zip(more).all(|(now, more)| *now >= more))
    })?;
    let with = Cost::of_both(&agent)?;
    std::thread::sleep(Duration::from_secs(10));
    let later = Cost::of_both(&agent)?;
    for (who, n) in [("guard", 0), ("proxy", 1)] {
        show(&format!(
            "{who}: {} KiB, with {count} namespaces {} KiB; {} of 1000 ticks while nothing happens",
            before[n].pss,
            with[n].pss,
            later[n].ticks - with[n].ticks
        ));
    }
    assert_eq!(
        town.ask()?,
        format!("{{\"403\": {count}}}"),
        "they are root"
    );
    drop(agent);
    let from = Instant::now();
    let agent = started(&world)?;
    show(&format!(
        "started again with {count}: ready after {:?}",
        from.elapsed()
    ));
    assert_eq!(town.ask()?, format!("{{\"403\": {count}}}"));
    town.leave()?;
    let from = Instant::now();
    soon("only our own listeners", || {
        let fds = Cost::of_both(&agent)?.map(|cost| cost.fds);
        Ok(fds.iter().zip(more).all(|(now, with)| *now < with - count))
    })?;
    show(&format!("forgotten after {:?}", from.elapsed()));
    Ok(())
}
