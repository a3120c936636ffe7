//! `cargo xtask bench`: everything in release, then the bench binary, which measures inside a world of its own.

use crate::{debian, ebpf, lack::Lack, process, workspace};
use anyhow::Result;
use clap::Args;

#[derive(Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds: a minute and a half at most, instead of six.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// One part alone.
    #[arg(long, value_parser = ["start", "decide", "http", "forward", "programs"])]
    only: Option<String>,
}

/// Run the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Lack::error(
            "bench needs root, for namespaces and kernel programs",
            "  sudo -E cargo xtask bench",
        ));
    }
    tools()?;
    ebpf::ensure()?;
    for what in [
        &["-p", "imds-guard", "-p", "imds-guard-tests", "--bins"][..],
        &["-p", "imds-guard-core", "--example", "decide_speed"],
    ] {
        process::run(
            process::command("cargo", &["build", "--release", "--locked", "--quiet"])?.args(what),
        )?;
    }
    let bench = workspace::target().join("release/bench");
    let mut command = process::command(&bench.to_string_lossy(), &[])?;
    command
        .args(options.quick.then_some("--quick"))
        .args(options.json.then_some("--json"));
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    process::run(&mut command)
}

/// The load and the other proxy.
fn tools() -> Result<()> {
    let absent: Vec<_> = debian::REST
        .iter()
        .filter(|package| match package.name {
            "wrk" => workspace::which("wrk").is_none(),
            "nginx-light" => workspace::which("nginx").is_none(),
            _ => false,
        })
        .collect();
    debian::install(&absent)
}
