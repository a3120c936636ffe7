//! What a test needs from the machine. A need that isn't met is a panic, never a silent pass: which tests run is decided by
//! `cargo xtask test`, which names what it leaves out.

use std::path::Path;

/// Something that a test needs from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Effective uid 0 with its capabilities.
    Root,
    /// A cgroup v2 hierarchy, mounted.
    Cgroup2,
    /// BPF programs on cgroups, and the kernel's BTF.
    Bpf,
    /// The agent's binary, built.
    Agent,
    /// A kernel that numbers processes for good (pidfs, 6.9): two pidfds have two inodes.
    PidFs,
    /// Programs on interfaces (tcx, 6.6).
    Tcx,
    /// nft(8).
    Nft,
    /// strace(1), which can end a process at a system call of its own.
    Strace,
    /// What guests boot from.
    Guest,
}

impl Need {
    fn met(self) -> Result<(), String> {
        match self {
            Self::Root if !nix::unistd::geteuid().is_root() => {
                Err("root: run `cargo xtask test` as root".into())
            }
            Self::Cgroup2 => crate::Cgroup::own()
                .map(drop)
                .map_err(|e| format!("a cgroup v2 hierarchy: {e:#}")),
            Self::Bpf if !Path::new("/sys/kernel/btf/vmlinux").exists() => {
                Err("a kernel with BTF (CONFIG_DEBUG_INFO_BTF)".into())
            }
            Self::Agent => crate::binary("imds-guard")
                .map(drop)
                .map_err(|e| format!("the agent: {e:#}")),
            Self::PidFs if !numbers_processes() => {
                Err("a kernel that numbers processes (pidfs, 6.9)".into())
            }
            Self::Tcx if !kernel_is_at_least(6, 6) => {
                Err("a kernel with programs on interfaces (tcx, 6.6)".into())
            }
            Self::Nft => imds_guard::intercept::nft::program()
                .map(drop)
                .map_err(|e| e.to_string()),
            Self::Strace if !Path::new("/usr/bin/strace").exists() => {
                Err("strace (package strace)".into())
            }
            Self::Guest => crate::guest_image()
                .map(drop)
                .map_err(|e| format!("a kernel for guests: {e:#}")),
            _ => Ok(()),
        }
    }
}

/// Whether this kernel's version is that one or later: for what a test expects, never for whether it runs.
#[must_use]
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let Ok(system) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = system.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// Before pidfs, all pidfds share one anonymous inode.
fn numbers_processes() -> bool {
    let inode = |pid| imds_guard::sys::pidfd::PidFd::open(pid).and_then(|fd| fd.inode());
    match (inode(std::process::id()), inode(1)) {
        (Ok(ours), Ok(first)) => ours != first,
        _ => false,
    }
}

/// Panic, naming every need that isn't met. Called through [`require!`](crate::require!).
///
/// # Panics
/// When a need isn't met.
#[track_caller]
pub fn demand(needs: &[Need]) {
    let unmet: Vec<String> = needs.iter().filter_map(|need| need.met().err()).collect();
    assert!(unmet.is_empty(), "this test needs {}", unmet.join("; and "));
}

/// `require!(Root, Cgroup2, Bpf)`: the needs of a test, panicking where one isn't met.
#[macro_export]
macro_rules! require {
    ($($need:ident),+ $(,)?) => { $crate::demand(&[$($crate::Need::$need),+]) };
}
