//! `cargo xtask setup`: everything that building, testing and the demo need, found or installed, each with where it came from.

use crate::{debian, lack::Lack, linker, node, process, python, tool, toolchain, workspace};
use anyhow::{Result, ensure};
use clap::Args;
use std::time::Instant;

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only what compiling the kernel programs and the agent takes.
    #[arg(long)]
    build_only: bool,
    /// What fuzzing takes, too.
    #[arg(long)]
    fuzz: bool,
}

impl Options {
    /// All that CI's steps need.
    pub(crate) fn for_ci() -> Self {
        Self {
            build_only: false,
            fuzz: true,
        }
    }
}

/// Run the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    cargo_is_current()?;
    compiler(options)?;
    let linker = linker::find_or_install()?;
    println!(
        "  bpf-linker: {} ({})",
        linker.display(),
        version(&linker.to_string_lossy())
    );
    if !options.build_only {
        python::ensure()?;
        node::ensure()?;
        println!(
            "  cargo-nextest: {}",
            nextest().unwrap_or_else(|| "not there; `cargo test` is used instead".to_owned())
        );
    }
    if options.fuzz {
        tool::ensure(tool::FUZZ)?;
    }
    println!("setup: done in {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

/// The version line of cargo-nextest, when it is there. It is taken where found, and done without elsewhere: building it
/// costs more minutes than it saves.
pub(crate) fn nextest() -> Option<String> {
    process::output("cargo", &["nextest", "--version"])?
        .lines()
        .next()
        .map(str::to_owned)
}

fn version(program: &str) -> String {
    process::output(program, &["--version"]).unwrap_or_else(|| "says no version".to_owned())
}

fn cargo_is_current() -> Result<()> {
    let text = version("cargo");
    let minor = text
        .split(['.', ' '])
        .nth(2)
        .and_then(|minor| minor.parse::<u32>().ok());
    println!("  cargo: {text}");
    ensure!(
        minor.is_some_and(|minor| minor >= 95),
        Lack::error(
            format!("cargo is too old ({text}); 1.95 or newer is needed"),
            "  rustup update stable"
        )
    );
    Ok(())
}

fn compiler(options: &Options) -> Result<()> {
    // A nightly with rust-src compiles the programs, but bpf-linker from crates.io still wants Debian's LLVM.
    let bpf_covered = toolchain::find().is_some() && linker::find().is_some();
    let bpf = if bpf_covered { &[][..] } else { debian::BPF };
    let wanted = bpf
        .iter()
        .chain(debian::REST)
        .filter(|p| !options.build_only || is_for_building(p.name));
    if workspace::which("dpkg-query").is_some() {
        debian::install(&debian::missing(wanted))?;
    } else {
        println!("  not Debian: packages are not looked at; the equivalents of these are needed:");
        wanted.for_each(|p| println!("    {:<24} {}", p.name, p.why));
    }
    let found = toolchain::find().ok_or_else(|| {
        Lack::error(
            "no compiler for the BPF target",
            "  rustup toolchain install nightly --component rust-src\n  cargo xtask setup",
        )
    })?;
    println!("  bpf compiler: {found}");
    Ok(())
}

fn is_for_building(name: &str) -> bool {
    debian::BPF.iter().any(|p| p.name == name) || matches!(name, "gcc" | "g++" | "libc6-dev")
}
