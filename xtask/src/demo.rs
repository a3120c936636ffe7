//! `cargo xtask demo` and `cargo xtask run`: what is missing is installed, the agent is built as it is released, and the
//! programs of `tests/demo` take over this process.
//!
//! Owns the order of preparation and the guard against running on the machine itself by accident.

use crate::{ebpf, lack::Lack, process, setup, workspace};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(Args)]
pub(crate) struct Run {
    /// Configuration file [default: the demo's, tests/demo/policy.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Guard this machine itself, not a world made for it: every process here is then subject to the policy of --config.
    #[arg(long, requires = "config")]
    on_this_host: bool,
}

/// The verb `demo`.
pub(crate) fn demo() -> Result<()> {
    prepare("cargo xtask demo")?;
    become_it(
        Command::new(release("demo")).env("IMDS_GUARD_VENV", workspace::target().join("venv")),
    )
}

/// The verb `run`.
pub(crate) fn run(options: &Run) -> Result<()> {
    // Where the caller stands, paths that it gives are meant from.
    let config = options.config.as_deref().map(absolute).transpose()?;
    prepare("cargo xtask run")?;
    match (options.on_this_host, config) {
        (true, Some(config)) => become_it(
            Command::new(release("imds-guard"))
                .arg("run")
                .arg("--config")
                .arg(config),
        ),
        (_, config) => become_it(Command::new(release("demo")).arg("live").args(config)),
    }
}

fn absolute(file: &Path) -> Result<PathBuf> {
    file.canonicalize()
        .with_context(|| format!("could not find {}", file.display()))
}

/// Everything that the programs need, as root.
fn prepare(verb: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Lack::error(
            "this needs root: it makes a network namespace and a cgroup of its own, and loads eBPF programs into the kernel",
            format!("  sudo -E env PATH=\"$PATH\" {verb}"),
        ));
    }
    let started = Instant::now();
    println!("== what is needed");
    setup::run(&setup::Options::default())?;
    println!("== kernel programs, agent and demo");
    ebpf::ensure()?;
    process::run(&mut process::command(
        "cargo",
        &[
            "build",
            "--locked",
            "--release",
            "-p",
            "imds-guard",
            "-p",
            "imds-guard-tests",
            "--bin",
            "imds-guard",
            "--bin",
            "probe",
            "--bin",
            "demo",
        ],
    )?)?;
    println!("== ready after {:.1} s\n", started.elapsed().as_secs_f32());
    Ok(())
}

fn release(program: &str) -> PathBuf {
    workspace::target().join("release").join(program)
}

/// This process becomes the program: signals and exit code are the program's own.
fn become_it(command: &mut Command) -> Result<()> {
    let error = command.stdin(Stdio::inherit()).exec();
    Err(anyhow!(error).context(format!("could not start `{}`", process::shown(command))))
}
