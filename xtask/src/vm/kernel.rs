//! Debian's kernels: resolved from the metapackage (build numbers change weekly), unpacked below `target/vm/kernels`, and
//! looked up again once a day. Nothing is installed.

use super::apt::Archive;
use crate::{process, workspace};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// For how long a name found in the archive is taken for the newest.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A processor that kernels and programs are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// As Debian writes it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) arch: Arch,
    /// As `uname -r` says it.
    pub(crate) release: String,
    tree: PathBuf,
}

impl Kernel {
    /// The kernel that `suite` has now, downloaded where it isn't here yet.
    pub(crate) fn of(suite: &str, arch: Arch) -> Result<Self> {
        let place = workspace::target().join(format!("vm/kernels/{suite}-{}", arch.debian()));
        let had = Self::kept(&place, arch);
        if let Some(kernel) = had.as_ref().filter(|_| fresh(&place.join("release"))) {
            return Ok(kernel.clone());
        }
        match Self::fetch(&place, suite, arch) {
            Err(error) if had.is_some() => {
                println!("  {suite}: the archive can't be asked ({error:#}); what is here is used");
                had.context("unreachable")
            }
            other => other,
        }
    }

    /// The one that is unpacked: its name is written last.
    fn kept(place: &Path, arch: Arch) -> Option<Self> {
        let release = fs::read_to_string(place.join("release")).ok()?;
        let tree = place.join(&release);
        tree.is_dir().then_some(Self {
            arch,
            release,
            tree,
        })
    }

    fn fetch(place: &Path, suite: &str, arch: Arch) -> Result<Self> {
        let archive = Archive::refresh(suite, arch.debian())?;
        let meta = format!("linux-image-cloud-{}", arch.debian());
        let depends = archive.depends(&meta)?.unwrap_or_default();
        let release = release_in(&depends)
            .with_context(|| format!("{suite} has no {meta} that names a kernel: {depends:?}"))?
            .to_owned();
        let kernel = Self {
            arch,
            tree: place.join(&release),
            release,
        };
        if !kernel.image().is_ok_and(|image| image.is_file()) {
            let _older_or_unfinished = fs::remove_dir_all(place);
            println!(
                "  fetching Linux {} ({suite}, {})",
                kernel.release,
                arch.debian()
            );
            archive.unpack(&kernel.packages(&archive)?, &kernel.tree)?;
            kernel.index()?;
        }
        kernel.image()?;
        fs::write(place.join("release"), &kernel.release)?;
        Ok(kernel)
    }

    /// From 6.19 on the image is an empty package that depends on three.
    fn packages(&self, archive: &Archive) -> Result<Vec<String>> {
        let parts = ["linux-base", "linux-binary", "linux-modules"];
        let named = |part: &&str| format!("{part}-{}", self.release);
        Ok(if archive.depends(&named(&parts[1]))?.is_some() {
            parts.iter().map(named).collect()
        } else {
            vec![named(&"linux-image")]
        })
    }

    /// modules.dep isn't in the package.
    fn index(&self) -> Result<()> {
        let base = self.base()?;
        process::run(
            process::command("depmod", &["-b"])?
                .arg(base)
                .arg(&self.release),
        )
    }

    /// The directory that has `lib/modules` below it.
    fn base(&self) -> Result<PathBuf> {
        let mut places = [self.tree.clone(), self.tree.join("usr")].into_iter();
        places
            .find(|place| place.join("lib/modules").join(&self.release).is_dir())
            .with_context(|| format!("no modules in {}", self.tree.display()))
    }

    /// The kernel image.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let places = [
            self.tree.join(format!("boot/vmlinuz-{}", self.release)),
            self.tree
                .join(format!("usr/lib/modules/{}/vmlinuz", self.release)),
        ];
        let mut there = places.into_iter().filter(|place| place.is_file());
        there
            .next()
            .with_context(|| format!("no kernel image in {}", self.tree.display()))
    }

    /// Copy `modules` and what they depend on, decompressed, to `into`, with their names in the order of loading in
    /// `into/order`. What this kernel has built in, or doesn't know, is left out: whoever needs it will say so.
    pub(crate) fn modules(&self, modules: &[&str], into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        let base = self.base()?;
        let mut order = Vec::new();
        for module in modules {
            for file in depends(&base, &self.release, module)? {
                let name = unpacked(&file, into)?;
                if !order.contains(&name) {
                    order.push(name);
                }
            }
        }
        fs::write(into.join("order"), order.join("\n") + "\n").context("the modules' order")
    }

    /// Lay out all modules as `/lib/modules` has them, in the directory `into`. Decompressed and indexed anew: decompression
    /// is slow under emulation.
    pub(super) fn all_modules(&self, into: &Path) -> Result<()> {
        let below = into.join("lib/modules");
        fs::create_dir_all(&below)?;
        let own = self.base()?.join("lib/modules").join(&self.release);
        process::run(process::command("cp", &["-a"])?.arg(own).arg(&below))?;
        let unpack = "find . -name '*.ko.xz' -exec xz -d {} +; find . -name '*.ko.zst' -exec zstd -q -d --rm {} +";
        process::run(process::command("sh", &["-ec", unpack])?.current_dir(&below))?;
        let mut index = process::command("depmod", &["-b"])?;
        process::run(index.arg(into).arg(&self.release))?;
        // One level up: the disk is mounted at /lib/modules.
        fs::rename(below.join(&self.release), into.join(&self.release))?;
        fs::remove_dir_all(into.join("lib")).context("the modules' place")
    }
}

/// Whether what `stamp` stands for was looked up within the last day.
pub(super) fn fresh(stamp: &Path) -> bool {
    let age = fs::metadata(stamp).and_then(|meta| meta.modified());
    age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < FRESH))
}

/// `6.12.94+deb13-cloud-amd64` out of the metapackage's dependencies.
fn release_in(depends: &str) -> Option<&str> {
    let names = depends.split([',', ' ']);
    names
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .find(|release| release.starts_with(|c: char| c.is_ascii_digit()))
}

/// The files to load for a module, in order.
fn depends(base: &Path, release: &str, module: &str) -> Result<Vec<PathBuf>> {
    // Without this machine's own options for modules (-C).
    let arguments = ["-C", "/dev/null", "-S", release, "--show-depends", "-d"];
    let mut modprobe = process::command("modprobe", &arguments)?;
    let output = modprobe
        .arg(base)
        .arg(module)
        .stderr(Stdio::null())
        .output()
        .context("modprobe (kmod)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let files = text.lines().filter_map(|line| line.strip_prefix("insmod "));
    Ok(files.map(|file| PathBuf::from(file.trim())).collect())
}

fn unpacked(file: &Path, into: &Path) -> Result<String> {
    let name = file.file_name().context("a module without a name")?;
    let name = name.to_string_lossy();
    let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
    let target = into.join(plain);
    if !target.exists() {
        let program = match name.rsplit('.').next() {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => {
                fs::copy(file, &target).with_context(|| file.display().to_string())?;
                return Ok(plain.to_owned());
            }
        };
        let mut decompress = process::command(program, &["-qdc"])?;
        let status = decompress
            .arg(file)
            .stdout(fs::File::create(&target)?)
            .status();
        ensure!(
            status.is_ok_and(|s| s.success()),
            "{program} {}",
            file.display()
        );
    }
    Ok(plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_named_by_the_metapackage() {
        let depends = "linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1), linux-base";
        assert_eq!(release_in(depends), Some("6.12.117+deb13-cloud-amd64"));
        assert_eq!(release_in("linux-image-cloud-amd64"), None);
    }
}
