//! `cargo xtask dist`: what people install, below target/dist: a Debian package and a tarball of the same tree, for each architecture.
//!
//! Owns the order: build, documents, tree, packages, digests. What is made depends on the sources, the toolchain and the commit's
//! date alone.

mod binary;
mod check;
mod deb;
mod licences;
mod tarball;
mod tree;

use crate::{process, workspace};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct Options {
    /// For which architectures [default: this machine's]. arm64 is built with Debian's rustc; may be repeated.
    #[arg(long = "arch", value_enum)]
    architectures: Vec<Architecture>,
    /// Debian's revision: the N of VERSION-N.
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u32,
}

/// As Debian names them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// One release, for one architecture.
struct Release {
    architecture: Architecture,
    version: String,
    revision: u32,
    /// `SOURCE_DATE_EPOCH`: the time of everything in it.
    epoch: String,
}

/// Run the verb.
pub(crate) fn run(options: &Options) -> Result<()> {
    let architectures = match &options.architectures[..] {
        [] => vec![Architecture::Amd64],
        some => some.to_vec(),
    };
    let documents = tree::documents()?;
    for architecture in architectures {
        for made in make(architecture, options.revision, &documents)? {
            println!(
                "dist: {} ({} KB)",
                made.display(),
                made.metadata()?.len() / 1024
            );
        }
    }
    digests()
}

/// What the tests of packages install: one, and the same with a higher version.
pub(crate) fn pair() -> Result<()> {
    let documents = tree::documents()?;
    let binary = binary::build(Architecture::Amd64)?;
    for revision in [1, 2] {
        let release = Release::new(Architecture::Amd64, revision)?;
        let tree = release.tree(&binary, &documents)?;
        deb::make(&release, &tree)?;
        fs::remove_dir_all(tree)?;
    }
    Ok(())
}

/// Where [`pair`] puts one of them.
pub(crate) fn of_pair(revision: u32) -> Result<PathBuf> {
    Ok(Release::new(Architecture::Amd64, revision)?.deb())
}

fn make(architecture: Architecture, revision: u32, documents: &Path) -> Result<[PathBuf; 2]> {
    let release = Release::new(architecture, revision)?;
    let tree = release.tree(&binary::build(architecture)?, documents)?;
    let tarball = tarball::make(&release, &tree)?;
    deb::make(&release, &tree)?;
    fs::remove_dir_all(tree)?;
    check::package(&release)?;
    Ok([release.deb(), tarball])
}

impl Release {
    fn new(architecture: Architecture, revision: u32) -> Result<Self> {
        Ok(Self {
            architecture,
            version: version()?,
            revision,
            epoch: epoch()?,
        })
    }

    /// The installed tree, laid out anew.
    fn tree(&self, binary: &Path, documents: &Path) -> Result<PathBuf> {
        let tree = directory().join(format!("tree-{}", self.architecture.debian()));
        tree::lay(self, binary, documents, &tree)?;
        Ok(tree)
    }

    fn debian_version(&self) -> String {
        format!("{}-{}", self.version, self.revision)
    }

    /// Where its Debian package goes.
    fn deb(&self) -> PathBuf {
        let (version, architecture) = (self.debian_version(), self.architecture.debian());
        directory().join(format!("imds-guard_{version}_{architecture}.deb"))
    }
}

fn directory() -> PathBuf {
    workspace::target().join("dist")
}

fn version() -> Result<String> {
    let manifest = fs::read_to_string(workspace::root().join("Cargo.toml"))?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \""));
    let version = line.and_then(|rest| rest.strip_suffix('"'));
    Ok(version.context("Cargo.toml has no version")?.to_owned())
}

/// `SOURCE_DATE_EPOCH`, or the commit's date.
fn epoch() -> Result<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(given);
    }
    process::output("git", &["log", "-1", "--format=%ct"])
        .filter(|epoch| !epoch.is_empty())
        .context("there is no commit whose date could be taken: set SOURCE_DATE_EPOCH")
}

/// `SHA256SUMS` of all packages that lie there.
fn digests() -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(directory())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "deb" || e == "xz"))
        .collect();
    names.sort();
    let mut sums = String::new();
    for file in names {
        let digest = Sha256::digest(fs::read(&file)?);
        for byte in digest {
            write!(sums, "{byte:02x}")?;
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        writeln!(sums, "  {name}")?;
    }
    fs::write(directory().join("SHA256SUMS"), sums).context("SHA256SUMS")
}
