//! Debian's archive, through the machine's own apt and its mirrors, with lists and sources of our own: suites that the machine
//! doesn't use never get into its configuration. Signatures and digests are checked by apt, as for any package.

use crate::lack::Lack;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Signs every suite of Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite for one architecture.
pub(crate) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Fetch the lists of `suite` for `arch`, as its mirror has them now.
    pub(crate) fn refresh(suite: &str, arch: &str) -> Result<Self> {
        let directory = workspace::target().join(format!("vm/apt/{suite}-{arch}"));
        let archive = Self { directory };
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(archive.directory.join(below))?;
        }
        fs::write(archive.directory.join("status"), "")?;
        fs::write(
            archive.directory.join("sources.list"),
            source(suite, arch)? + "\n",
        )?;
        fs::write(
            archive.directory.join("apt.conf"),
            archive.configuration(arch),
        )?;
        process::run(&mut archive.command("apt-get", &["-qq", "update"])?)?;
        Ok(archive)
    }

    /// The machine's `apt.conf.d` is still read, so a proxy that it names is used.
    fn configuration(&self, arch: &str) -> String {
        let d = self.directory.display();
        format!(
            r#"Dir::State "{d}"; Dir::State::Lists "{d}/lists"; Dir::State::status "{d}/status"; Dir::Cache "{d}/cache";
Dir::Etc::SourceList "{d}/sources.list"; Dir::Etc::SourceParts "/dev/null";
APT::Architecture "{arch}"; APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
        )
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = process::command(program, arguments)?;
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        Ok(command)
    }

    /// What the newest `package` depends on, as written; None where the suite has no such package.
    pub(crate) fn depends(&self, package: &str) -> Result<Option<String>> {
        let mut show = self.command("apt-cache", &["show", "--no-all-versions", package])?;
        let output = show.output().context("apt-cache")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || text.trim().is_empty() {
            return Ok(None);
        }
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        Ok(Some(depends.unwrap_or_default().to_owned()))
    }

    /// Download packages and unpack them into one tree; nothing is installed.
    pub(crate) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        let debs = self.directory.join("debs");
        let _an_interrupted_download = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs)?;
        let mut download = self.command("apt-get", &["-qq", "download"])?;
        process::run(download.args(packages).current_dir(&debs))?;
        fs::create_dir_all(tree)?;
        for deb in fs::read_dir(&debs)? {
            let mut unpack = process::command("dpkg-deb", &["-x"])?;
            process::run(unpack.arg(deb?.path()).arg(tree))?;
        }
        fs::remove_dir_all(debs).context("the downloaded packages")
    }
}

/// A line for sources.list.
pub(crate) fn source(suite: &str, arch: &str) -> Result<String> {
    let mirror = mirror(suite)?;
    Ok(format!(
        "deb [arch={arch} signed-by={KEYRING}] {mirror} {suite} main"
    ))
}

/// The mirror that the machine's own sources name for suites of this kind.
fn mirror(suite: &str) -> Result<String> {
    ensure!(
        Path::new(KEYRING).is_file(),
        Lack::error(
            "Debian's keyring isn't there",
            "  apt-get install debian-archive-keyring"
        )
    );
    let targets = process::output(
        "apt-get",
        &[
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI)",
            "Created-By: Packages",
        ],
    )
    .unwrap_or_default();
    let host = host_suite()?;
    let wanted = if suite.ends_with("-security") {
        format!("{host}-security")
    } else {
        host
    };
    of_suite(&targets, &wanted).ok_or_else(|| {
        Lack::error(
            format!("this machine's apt has no source for {wanted}, so there is no mirror to ask for {suite}"),
            format!("  add {wanted} to /etc/apt/sources.list, then: apt-get update"),
        )
    })
}

fn of_suite(targets: &str, wanted: &str) -> Option<String> {
    let mut pairs = targets.lines().filter_map(|line| line.split_once(' '));
    pairs
        .find(|(suite, _)| *suite == wanted)
        .map(|(_, uri)| uri.to_owned())
}

/// The suite that this machine runs (`bookworm`).
pub(crate) fn host_suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("not a Debian: no VERSION_CODENAME")?;
    Ok(name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_found_by_the_kind_of_suite() {
        let targets = "nodistro https://elsewhere/\nbookworm http://a/debian/\nbookworm-security http://a/sec/\n";
        let found = |wanted| of_suite(targets, wanted);
        assert_eq!(found("bookworm").as_deref(), Some("http://a/debian/"));
        assert_eq!(found("bookworm-security").as_deref(), Some("http://a/sec/"));
        assert_eq!(found("trixie"), None);
    }
}
