//! The finished package, looked at as its user gets it: for the right processor, complete. (Its C library is judged with the
//! program: [`super::binary`].)

use super::{Architecture, Release};
use crate::process;
use anyhow::{Context, Result, ensure};

/// What nobody would miss before it is needed. The pages of all verbs are the tests' of packages to look for.
const NEEDED: [&str; 15] = [
    "/usr/bin/imds-guard",
    "/usr/lib/systemd/system/imds-guard.service",
    "/usr/lib/systemd/system/imds-guard-proxy.service",
    "/usr/lib/systemd/system/imds-guard-early.service",
    "/usr/lib/sysusers.d/imds-guard.conf",
    "/usr/lib/tmpfiles.d/imds-guard.conf",
    "/etc/imds-guard/imds-guard.toml",
    "/etc/logrotate.d/imds-guard",
    "/usr/share/man/man8/imds-guard.8.gz",
    "/usr/share/man/man5/imds-guard.toml.5.gz",
    "/usr/share/bash-completion/completions/imds-guard",
    "/usr/share/zsh/vendor-completions/_imds-guard",
    "/usr/share/fish/vendor_completions.d/imds-guard.fish",
    "/usr/share/doc/imds-guard/copyright",
    "/usr/share/doc/imds-guard/examples/azure.toml",
];

/// Refuse one that lacks something.
pub(super) fn package(release: &Release) -> Result<()> {
    let deb = release.deb().display().to_string();
    let names = process::output("dpkg-deb", &["--contents", &deb]).context("dpkg-deb")?;
    complete(&names).with_context(|| deb.clone())?;
    let architecture = process::output("dpkg-deb", &["--field", &deb, "Architecture"]);
    let wanted = release.architecture.debian();
    ensure!(
        architecture.as_deref() == Some(wanted),
        "{deb} says it is for {architecture:?}"
    );
    // e_machine.
    let program =
        "dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/bin/imds-guard | od -An -tu2 -j18 -N2";
    let machine = process::output("sh", &["-c", program, &deb]).context("od")?;
    ensure!(
        machine == of(release.architecture),
        "the program in {deb} is not for {wanted}: its ELF machine is {machine}"
    );
    Ok(())
}

/// What `dpkg-deb --contents` lists.
fn complete(names: &str) -> Result<()> {
    let there: Vec<&str> = names
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.strip_prefix('.'))
        .collect();
    let missing: Vec<_> = NEEDED.iter().filter(|name| !there.contains(name)).collect();
    ensure!(missing.is_empty(), "it lacks {missing:?}");
    Ok(())
}

/// EM_X86_64, EM_AARCH64.
fn of(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "62",
        Architecture::Arm64 => "183",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let line = |name: &&str| format!("-rw-r--r-- root/root 1 2026-11-26 21:58 .{name}\n");
        let all: String = NEEDED.iter().map(line).collect();
        complete(&all).unwrap();
        let without = all.replace("/tmpfiles.d/", "/elsewhere/");
        let error = complete(&without).unwrap_err().to_string();
        assert!(error.contains("tmpfiles.d/imds-guard.conf"), "{error}");
    }
}
