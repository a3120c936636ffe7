//! Which compiler turns `ebpf/` into an object. Two routes are taken; which one was is always said.
//!
//! 1. Debian's `rustc-web`: a stable compiler that ships `core` for the BPF target.
//! 2. A nightly toolchain with `rust-src`: cargo compiles `core` itself.

use crate::process;
use std::fmt;
use std::path::{Path, PathBuf};

/// The target triple of the kernel programs; they are the same for every little-endian host.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build for [`BPF_TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Debian's rustc, with a compiled core beside it.
    Debian { rustc: PathBuf, version: String },
    /// rustup's nightly with `rust-src`.
    Nightly { version: String },
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian { rustc, version } => write!(
                f,
                "{} ({version}), with Debian's core for BPF",
                rustc.display()
            ),
            Self::Nightly { version } => {
                write!(f, "rustup's nightly ({version}), building core itself")
            }
        }
    }
}

/// The compiler to use, Debian's before nightly: it is a release, so it gives the same object tomorrow.
pub(crate) fn find() -> Option<Compiler> {
    debian().or_else(nightly)
}

fn debian() -> Option<Compiler> {
    let rustc = Path::new("/usr/bin/rustc");
    let name = rustc.to_str()?;
    let version = process::output(name, &["--version"])?;
    let libraries = process::output(name, &["--print", "target-libdir", "--target", BPF_TARGET])?;
    holds_core(Path::new(&libraries)).then(|| Compiler::Debian {
        rustc: rustc.to_path_buf(),
        version,
    })
}

fn holds_core(libraries: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libraries) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn nightly() -> Option<Compiler> {
    let sysroot = process::output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])?;
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    let version = process::output("rustup", &["run", "nightly", "rustc", "--version"])?;
    source.is_dir().then_some(Compiler::Nightly { version })
}
