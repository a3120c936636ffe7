//! The program, built as it is released, and looked at: it may need no newer C library than the oldest Debian that we package
//! for has, and no library that the package doesn't depend on.

use super::Architecture;
use crate::lack::Lack;
use crate::vm::Cross;
use crate::{ebpf, process, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// Bookworm's.
const GLIBC: (u32, u32) = (2, 36);

/// What `Depends:` in systemd/deb/control covers: libc6 and libgcc-s1.
const LIBRARIES: [&str; 5] = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

const BUILD: [&str; 6] = [
    "build",
    "--locked",
    "--release",
    "-p",
    "imds-guard",
    "--bin",
];

/// Build it, and look at it.
pub(super) fn build(architecture: Architecture) -> Result<PathBuf> {
    ebpf::ensure()?;
    let built = match architecture {
        Architecture::Amd64 => native()?,
        Architecture::Arm64 => crossed()?,
    };
    let asked = ["--wide", "--version-info", "--dynamic"];
    let mut arguments = asked.to_vec();
    let path = built.display().to_string();
    arguments.push(&path);
    let said = process::output("readelf", &arguments).context("readelf, of package binutils")?;
    judge(&said).with_context(|| path.clone())?;
    Ok(built)
}

fn native() -> Result<PathBuf> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "packages for amd64 are built on amd64"
    );
    let mut cargo = process::command("cargo", &BUILD)?;
    process::run(cargo.arg("imds-guard"))?;
    Ok(workspace::target().join("release/imds-guard"))
}

fn crossed() -> Result<PathBuf> {
    let cross = Cross::prepare()?;
    let mut cargo = cross.cargo()?;
    process::run(cargo.args(BUILD).arg("imds-guard").args(cross.options()))?;
    Ok(cross.built("release/imds-guard"))
}

/// What `readelf` says of versions and libraries.
fn judge(said: &str) -> Result<()> {
    let newest = said
        .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))
        .filter_map(|word| glibc(word.strip_prefix("GLIBC_")?))
        .max()
        .context("it names no version of the C library")?;
    if newest > GLIBC {
        let (major, minor) = newest;
        return Err(Lack::error(
            format!(
                "it needs glibc {major}.{minor}, and bookworm has {}.{}",
                GLIBC.0, GLIBC.1
            ),
            "  build on Debian 12",
        ));
    }
    for needed in said.lines().filter(|line| line.contains("(NEEDED)")) {
        let library = needed.split(['[', ']']).nth(1).unwrap_or_default();
        if !LIBRARIES.contains(&library) {
            bail!("it needs {library}, on which the package doesn't depend");
        }
    }
    Ok(())
}

fn glibc(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// A copy without symbols: a third of the size, and a panic still names its file and line.
pub(super) fn strip(architecture: Architecture, from: &Path, to: &Path) -> Result<()> {
    let program = match architecture {
        Architecture::Amd64 => "strip",
        Architecture::Arm64 => "aarch64-linux-gnu-strip",
    };
    let mut strip = process::command(program, &["--strip-unneeded", "-o"])?;
    process::run(strip.arg(to).arg(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
        0x00a0:   Name: GLIBC_2.9  Flags: none  Version: 19\n  Name: GLIBC_2.34  Flags: none\n";

    #[test]
    fn a_newer_c_library_and_a_further_library_are_refused() {
        judge(SAID).unwrap();
        let newer = judge(&SAID.replace("2.34", "2.39")).unwrap_err();
        assert!(newer.to_string().contains("glibc 2.39"), "{newer}");
        let further = judge(&SAID.replace("libc.so.6", "libssl.so.3")).unwrap_err();
        assert!(further.to_string().contains("libssl.so.3"), "{further}");
        assert!(judge("").is_err(), "nothing read is nothing proven");
    }
}
