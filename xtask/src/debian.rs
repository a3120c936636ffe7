//! Debian's packages: which are missing, and installing them. Owns the package list; never touches sources or keys of the machine.

use crate::lack::Lack;
use crate::process;
use anyhow::Result;

/// One package, and the job that it is for.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

/// What compiling the kernel programs takes, on the route that needs no nightly toolchain.
pub(crate) const BPF: &[Package] = &[
    package(
        "rustc-web",
        "a rustc that ships a compiled core for the BPF target",
    ),
    package("libstd-rust-web-dev-bpf", "that core"),
    package("llvm-22-dev", "LLVM of the same version, for bpf-linker"),
    package(
        "libpolly-22-dev",
        "which llvm-22's configuration links against",
    ),
];

/// What building and testing the agent takes.
pub(crate) const REST: &[Package] = &[
    package("gcc", "aws-lc-sys has C in it"),
    package("g++", "bpf-linker links LLVM's C++"),
    package("libc6-dev", "headers for it"),
    package("iproute2", "the test world's interfaces"),
    package("util-linux", "setpriv, unshare, nsenter"),
    package("nftables", "guests and frames by netfilter; tests"),
    package("strace", "ends processes at a step of theirs, in tests"),
    package("wrk", "load, in bench"),
    package("nginx-light", "the reverse proxy that bench compares with"),
    package("python3-venv", "a place for the real SDK"),
    package("e2fsprogs", "disks of whole machines"),
    package("mmdebstrap", "the root file systems of tests"),
    package(
        "debian-archive-keyring",
        "Debian's signatures on kernels to test on",
    ),
    package("qemu-system-x86", "machines with other kernels, and guests"),
    package("qemu-system-arm", "the same on arm64"),
    package("gcc-aarch64-linux-gnu", "C and linking for arm64"),
    package("libc6-dev-arm64-cross", "headers for it"),
    package("binutils", "readelf and strip, for packages"),
    package("man-db", "whether manual pages are sound"),
    package("kmod", "which modules such a machine needs"),
    package("cpio", "the archive that it boots into"),
    package("xz-utils", "modules are packed so"),
    package("zstd", "or so"),
];

/// The names among `packages` that dpkg doesn't know as installed.
pub(crate) fn missing<'a>(packages: impl IntoIterator<Item = &'a Package>) -> Vec<&'a Package> {
    packages
        .into_iter()
        .filter(|package| !installed(package.name))
        .collect()
}

fn installed(name: &str) -> bool {
    // nginx-light and nginx-core conflict; either serves.
    if name == "nginx-light" && crate::workspace::which("nginx").is_some() {
        return true;
    }
    process::output("dpkg-query", &["-W", "-f", "${Status}", name])
        .is_some_and(|status| status == "install ok installed")
}

/// The Debian release (12, 13), or None where this is another system.
pub(crate) fn release() -> Option<u32> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_ID")?.parse().ok())?
}

/// Install the missing ones among `packages`, or say exactly how.
pub(crate) fn install(packages: &[&Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|p| p.name).collect();
    for p in packages {
        println!("  missing: {:<24} {}", p.name, p.why);
    }
    if !nix::unistd::geteuid().is_root() || !matches!(release(), Some(12 | 13)) {
        return Err(Lack::error(
            format!(
                "{} Debian packages are missing, and this isn't root on Debian 12 or 13",
                names.len()
            ),
            format!(
                "  apt-get update\n  apt-get install --no-install-recommends {}",
                names.join(" ")
            ),
        ));
    }
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&names);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    // A package's start script must not start a service: nginx on port 80 of the machine is not what was asked for.
    process::run(
        process::command("apt-get", arguments)?
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_nobody_has_is_missing() {
        let nobodys = Package {
            name: "imds-guard-no-such-package",
            why: "",
        };
        assert_eq!(missing([&nobodys]).len(), 1);
    }
}
