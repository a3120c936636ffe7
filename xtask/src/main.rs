//! The one door: `cargo xtask <verb>`. This file owns the verbs and their help; each verb has a module of its own.
//!
//! Nothing here is shipped, and nothing here is imported by what is shipped.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to a person"
)]

mod bench;
mod ci;
mod debian;
mod demo;
mod deny;
mod dist;
mod ebpf;
mod lack;
mod linker;
mod node;
mod pins;
mod process;
mod python;
mod rust_clients;
mod setup;
mod test;
mod tidy;
mod tool;
mod toolchain;
mod vm;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Everything a developer of imds-guard does, in one place. CI runs the same verbs.
///
/// First time: `cargo xtask demo` installs what is missing, builds, and shows the main job in half a minute.
/// Every day: `cargo xtask test`. Before you submit: `cargo xtask ci`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install the toolchain: BPF compiler and linker, what tests need, the Python SDK. Exits 3 when it can't.
    ///
    /// As root on Debian 12 or 13 it installs what is missing from Debian's packages, crates.io and PyPI.
    /// Elsewhere it prints the exact commands.
    Setup(setup::Options),
    /// Build the kernel programs into target/ebpf/imds-guard-ebpf.o (skipped when nothing changed).
    Ebpf(ebpf::Options),
    /// See it work: the main job, step by step, with the unmodified azure-identity. Root; installs what is missing.
    ///
    /// Everything plays in a network namespace without a way out and in a cgroup of its own. Exits 1 when a step goes
    /// otherwise, 3 when the machine lacks something.
    Demo,
    /// Try it: the agent in the foreground, from source, in a world that you can enter from another terminal. Root.
    Run(demo::Run),
    /// Run the tests, tier by tier; names what can't run here (and fails for it where CI=true).
    ///
    /// The closing line sums all runners up: `N passed, N failed`.
    Test(test::Options),
    /// What the agent costs, beside a bare hyper server and nginx: a table with what we aim at. Needs root.
    ///
    /// Its exit code says whether everything could be measured, never whether it was fast.
    Bench(bench::Options),
    /// Make what people install, below target/dist: a Debian package and a tarball, linked against bookworm's C library.
    ///
    /// With manual pages and completions from the command line's definition. Maintainer: DEBFULLNAME and DEBEMAIL.
    Dist(dist::Options),
    /// Fetch the kernels for emulated machines from Debian's archive (once a day at most), and lay out target/vm/guest.
    Kernels,
    /// Move the real clients of the sdk tier (Python, JavaScript, Rust) to the newest versions, and show what moved.
    Pins,
    /// Everything that must hold before a change lands: fmt, tidy, clippy, deny, doc, test.
    Ci,
    /// The rules of the house that no compiler knows: lints taken by each crate, module docs, sizes, the tree's top.
    Tidy,
    /// Remove what killed tests and demos left behind: cgroups with their processes, directories. Root.
    Clean,
}

fn clean() -> anyhow::Result<()> {
    let arguments = [
        "run",
        "--quiet",
        "--locked",
        "-p",
        "imds-guard-tests",
        "--bin",
        "clean",
    ];
    process::run(&mut process::command("cargo", &arguments)?)
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Ebpf(options) => ebpf::run(&options),
        Verb::Demo => demo::demo(),
        Verb::Run(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Dist(options) => dist::run(&options),
        Verb::Kernels => vm::fetch(),
        Verb::Pins => pins::run(),
        Verb::Ci => ci::run(),
        Verb::Tidy => tidy::run(),
        Verb::Clean => clean(),
    };
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("xtask: {error:#}");
    if error.is::<lack::Lack>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}
