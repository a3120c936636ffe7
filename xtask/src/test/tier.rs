//! The tiers: what each proves, what it needs, its budget, and how it runs.

use super::{fuzz, suites, tally::Tally};
use crate::{node, python, rust_clients, vm, workspace};
use anyhow::Result;
use clap::ValueEnum;
use std::fmt;
use std::time::Duration;

/// A group of tests that need the same things.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tier {
    /// Pure core, parsers, tables. Needs nothing.
    Unit,
    /// The real binary, without interception. Needs nothing.
    Functional,
    /// The loaded programs and the whole agent. Needs root, cgroup v2, BPF.
    Kernel,
    /// Units under a real systemd. Needs root and a Debian root file system (made once).
    Systemd,
    /// The Debian package, installed under a real systemd. Needs the same, and builds the release.
    Package,
    /// The kernel tier on other kernels, emulated. Needs root, Debian, QEMU, a mirror.
    Vm,
    /// The package, container engines, units, a VRF, on whole Debians, emulated. Needs root, Debian, QEMU, a mirror, and
    /// builds the release.
    Systems,
    /// Fuzz targets. Needs cargo-fuzz.
    Fuzz,
    /// The clouds' own clients, unmodified, through interception. Needs root and the Python environment.
    Sdk,
}

impl Tier {
    /// From cheap to dear. `Systems` is asked for by name: with it, a run would take longer than anybody waits.
    pub(crate) const ALL: [Self; 8] = [
        Self::Unit,
        Self::Functional,
        Self::Kernel,
        Self::Sdk,
        Self::Systemd,
        Self::Package,
        Self::Fuzz,
        Self::Vm,
    ];

    /// In one line, for the output.
    pub(crate) fn proves(self) -> &'static str {
        match self {
            Self::Unit => "laws of the core, parsers, tables",
            Self::Functional => "the real binary's commands, exit codes and messages",
            Self::Kernel => {
                "interception, attribution, privileges and the main job, on this kernel"
            }
            Self::Systemd => "the units under a real systemd",
            Self::Package => "the Debian package: contents, installation, upgrade, removal",
            Self::Vm => {
                "the kernel tier on the kernels that we support, and a plain refusal on one that we don't"
            }
            Self::Systems => {
                "the package, podman's containers, units with filters and a VRF, on whole Debians with their own kernels"
            }
            Self::Fuzz => "what reads bytes from strangers survives them",
            Self::Sdk => {
                "the clouds' own clients, unmodified: Python, JavaScript, Rust, command lines"
            }
        }
    }

    /// How long it may take on two cores, once built.
    pub(crate) fn budget(self) -> Duration {
        Duration::from_secs(match self {
            Self::Unit => 120,
            Self::Functional => 30,
            // A third of it: killed at each step of its walk.
            Self::Kernel => 900,
            // Three root file systems made, one with the clouds' agents, one with firewalld and Docker; daemons restarted a hundred times, and hung until the watchdog acts.
            Self::Systemd => 720,
            Self::Package => 180,
            // From nothing: kernels fetched, arm64 built.
            Self::Vm => 720,
            // Two Debians, at once; making their root file systems, once a day, takes two minutes more.
            Self::Systems => 720,
            Self::Fuzz => 400,
            // A fifth of it is waiting: for tokens to end, for clients that try again.
            Self::Sdk => 420,
        })
    }

    /// Whether it installs the packages that `dist` makes.
    pub(crate) fn installs_packages(self) -> bool {
        matches!(self, Self::Package | Self::Systems)
    }

    /// Whether it runs nothing of the build that the others share.
    pub(crate) fn builds_its_own(self) -> bool {
        matches!(self, Self::Fuzz)
    }

    /// Why it can't run on this machine, when it can't.
    pub(crate) fn cannot_run(self, without_object: Option<&str>) -> Option<String> {
        match self {
            Self::Unit | Self::Functional => None,
            Self::Fuzz => fuzz::cannot_run(),
            Self::Kernel | Self::Systemd | Self::Package | Self::Sdk | Self::Vm | Self::Systems => {
                if !nix::unistd::geteuid().is_root() {
                    return Some("needs root (namespaces, cgroups, BPF)".into());
                }
                if let Some(why) = without_object {
                    return Some(format!(
                        "there are no kernel programs: {why}; cargo xtask setup"
                    ));
                }
                self.lacks_own_tool()
            }
        }
    }

    fn lacks_own_tool(self) -> Option<String> {
        match self {
            Self::Systemd | Self::Package if workspace::which("mmdebstrap").is_none() => {
                Some("needs mmdebstrap: cargo xtask setup".into())
            }
            Self::Vm => vm::cannot_run(),
            Self::Systems => vm::systems::cannot_run(),
            Self::Sdk if !python::interpreter().is_file() => {
                Some("needs the Python environment: cargo xtask setup".into())
            }
            _ => None,
        }
    }

    /// Run it.
    pub(crate) fn run(self, full: bool) -> Result<Tally> {
        match self {
            Self::Unit => suites::unit(),
            Self::Functional => suites::unprivileged("functional"),
            Self::Kernel => suites::kernel(full),
            Self::Systemd => suites::privileged(&["systemd"], full),
            Self::Package => suites::privileged(&["package"], full),
            Self::Sdk => sdk(full),
            Self::Vm => machines(full),
            Self::Systems => vm::systems::run(),
            Self::Fuzz => fuzz::run(full),
        }
    }
}

/// The kernel tier on other kernels, and guests of this one.
fn machines(full: bool) -> Result<Tally> {
    let mut tally = vm::run(full)?;
    vm::fetch()?;
    tally.add(&suites::privileged(&["machines"], full)?);
    Ok(tally)
}

/// All of its suites, but for those of a language whose clients aren't there.
fn sdk(full: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut without = vec![];
    for (suite, lack) in [
        ("sdk_node", node::lacks()),
        ("sdk_rust", rust_clients::lacks()),
    ] {
        if let Some(lack) = lack {
            println!("  not run: {suite}: {lack}");
            tally.add(&Tally::skip());
            without.push(suite);
        }
    }
    tally.add(&suites::privileged_but(&["sdk"], &without, full)?);
    Ok(tally)
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}
