//! `demo live`: the agent in the foreground, in a world that somebody can enter; its log and its audit records as they come.

use crate::interrupt::Interrupt;
use crate::record;
use anyhow::{Context, Result, ensure};
use imds_guard_core::policy::{Source, includes};
use imds_guard_tests::cast::{self, Cast, VAULT, token_of};
use imds_guard_tests::{AgentProcess, World};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Run until Ctrl-C, or until the agent ends.
pub(crate) fn run(config: Option<&Path>) -> Result<ExitCode> {
    let config = config.map(read).transpose()?;
    let world = World::new("run")?;
    let config = match config {
        Some(text) => cast::placed(&world, &text)?,
        None => cast::policy(&world)?,
    };
    let interrupted = Interrupt::on(&world)?;
    let _azure = world.azure()?;
    let mut agent = world.agent().config(&config).start()?;
    let cast = Cast::of(&world);
    explain(&world, &cast, &agent)?;
    let mut log = Follow::new(world.directory().join("agent.log"));
    let mut audit = Follow::new(world.directory().join("audit.jsonl"));
    loop {
        log.lines(|line| println!("{line}"));
        audit.lines(|line| println!("{}", shown(line)));
        std::thread::sleep(Duration::from_millis(50));
        if interrupted.came() {
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(status) = agent.wait_end(Duration::ZERO) {
            log.lines(|line| println!("{line}"));
            println!("the agent ended: {status}");
            return Ok(ExitCode::FAILURE);
        }
    }
}

/// A configuration that stands alone: the world has a copy of this file, not of those that it includes.
fn read(file: &Path) -> Result<String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {name}"))?;
    let main = Source {
        name: name.as_str().into(),
        text: text.as_str().into(),
    };
    // Where it doesn't parse, the agent says so better.
    let includes = includes(&main).map_or_else(|_| Vec::new(), |found| found.files);
    ensure!(
        includes.is_empty(),
        "{name} includes {}: give one file that says it all, or run on this host with --on-this-host",
        includes
            .iter()
            .map(|(name, _)| &**name)
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(text)
}

fn shown(line: &str) -> String {
    serde_json::from_str(line).map_or_else(|_| line.to_owned(), |value| record::line(&value))
}

fn explain(world: &World, cast: &Cast<'_>, agent: &AgentProcess) -> Result<()> {
    let script = world.directory().join("as");
    std::fs::write(&script, entering(cast, agent.pid())?).context("could not write a script")?;
    let script = script.display();
    println!(
        "\
imds-guard guards a network namespace and a cgroup of its own; the rest of this machine notices nothing. Ctrl-C ends it all.
Its configuration: {}/etc/imds-guard.toml

In another terminal, as root, be one of the programs:",
        world.directory().display()
    );
    for (name, _, what) in cast.all() {
        println!("  sh {script} {name:<10} COMMAND…   {what}");
    }
    println!(
        "\
For example:
  sh {script} billing curl -sH Metadata:true 'http://169.254.169.254{target}'
  sh {script} neighbour curl -sH Metadata:true 'http://169.254.169.254{target}'
  sh {script} web curl -sH Metadata:true 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'
Or look around as root, which no rule names and nothing guards:
  nsenter --target {pid} --net --mount
",
        target = token_of(VAULT),
        pid = agent.pid(),
    );
    Ok(())
}

/// A script that runs a command as one of the programs: first into its cgroup (seen from outside), then into the world's
/// namespaces, then to its uid.
fn entering(cast: &Cast<'_>, pid: u32) -> Result<String> {
    let mut script =
        "# as PROGRAM COMMAND...\nset -eu\nprogram=$1; shift\ncase $program in\n".to_owned();
    for (name, workload, _) in cast.all() {
        let cgroup = workload.cgroup()?;
        let (uid, gid) = workload.ids();
        script += &format!(
            "{name}) cgroup='{}'; uid={uid}; gid={gid};;\n",
            cgroup.display()
        );
    }
    script +=
        "*) echo \"no program $program\" >&2; exit 2;;\nesac\necho 0 > \"$cgroup/cgroup.procs\"\n";
    script += &format!(
        "exec nsenter --target {pid} --net --mount setpriv --reuid $uid --regid $gid --clear-groups -- \"$@\"\n"
    );
    Ok(script)
}

/// A file that grows, read line by line. It may not be there yet.
struct Follow {
    file: PathBuf,
    from: Option<BufReader<File>>,
    half: String,
}

impl Follow {
    fn new(file: PathBuf) -> Self {
        Self {
            file,
            from: None,
            half: String::new(),
        }
    }

    /// Each whole line that has come.
    fn lines(&mut self, mut tell: impl FnMut(&str)) {
        if self.from.is_none() {
            self.from = File::open(&self.file).ok().map(BufReader::new);
        }
        let Some(from) = &mut self.from else {
            return;
        };
        while from.read_line(&mut self.half).is_ok_and(|read| read > 0) && self.half.ends_with('\n')
        {
            tell(self.half.trim_end());
            self.half.clear();
        }
    }
}
