//! A child cgroup of our own cgroup, found through mountinfo, removed with all that runs in it.
//!
//! Never mounts cgroup2 afresh and never touches a cgroup that it didn't make: a fresh mount shows the machine's own
//! hierarchy, and a program attached at its root would meet every process there is.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names of cgroups (and temporary directories) of ours start so; then comes the pid of who made it.
pub(crate) const PREFIX: &str = "imds-guard-test.";

/// A directory of the cgroup v2 hierarchy that this process made.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup that this process is in.
    ///
    /// # Errors
    /// When there is no cgroup v2 hierarchy, or it isn't mounted where we can see our own place in it.
    pub fn own() -> Result<PathBuf> {
        let cgroups = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let ours = cgroups
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .context("no cgroup v2 in /proc/self/cgroup")?;
        for (root, point) in mounts()? {
            // The mount may show only a part of the hierarchy: that part's name comes off ours.
            if let Ok(rest) = Path::new(ours).strip_prefix(root) {
                return Ok(point.join(rest));
            }
        }
        bail!(NOT_MOUNTED)
    }

    /// A new child of our own cgroup, for `label`.
    ///
    /// # Errors
    /// When it can't be made: not root, or the hierarchy isn't writable here.
    pub fn child(label: &str) -> Result<Self> {
        let path = Self::own()?.join(format!("{PREFIX}{}.{label}", std::process::id()));
        fs::create_dir(&path)
            .with_context(|| format!("could not make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A cgroup below this one (`system.slice/web.service`), made when it isn't there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn below(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)
            .with_context(|| format!("could not make the cgroup {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln_in_tests(&format!(
                "leftover: {}: {error:#} (`cargo xtask clean` removes it)",
                self.path.display()
            ));
        }
    }
}

const NOT_MOUNTED: &str = "cgroup v2 isn't mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup";

/// The first cgroup v2 mount.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let first = mounts()?.into_iter().next();
    first.map(|(_, point)| point).context(NOT_MOUNTED)
}

/// Each cgroup v2 mount: the part of the hierarchy that it shows, and where.
fn mounts() -> Result<Vec<(PathBuf, PathBuf)>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let of_line = |line: &str| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ")
            .then(|| (root.into(), point.into()))
    };
    Ok(mounts.lines().filter_map(of_line).collect())
}

#[expect(
    clippy::print_stderr,
    reason = "a destructor has no other way to say what it could not undo"
)]
fn eprintln_in_tests(text: &str) {
    eprintln!("{text}");
}

/// Kill what runs in a cgroup that we made, and remove it with all below it.
fn remove(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.kill"), "1").context("cgroup.kill")?;
    let deadline = Instant::now() + crate::patience(Duration::from_secs(5));
    loop {
        // The dead stay members until they are reaped: removal is refused for a moment.
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| path.display().to_string())
}

/// Remove what interrupted runs left behind: cgroups (with what still runs in them) and directories of ours whose maker is
/// gone. Says what was removed.
///
/// # Errors
/// When one can't be removed.
pub fn leftovers() -> Result<Vec<PathBuf>> {
    let mut removed = orphans(&Cgroup::own()?)?;
    removed.iter().try_for_each(|cgroup| remove(cgroup))?;
    for directory in orphans(&std::env::temp_dir())? {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        removed.push(directory);
    }
    Ok(removed)
}

/// What lies in `place` under a name of ours with the pid of a process that is gone.
fn orphans(place: &Path) -> Result<Vec<PathBuf>> {
    let maker_is_gone = |name: &str| {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('.').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    let entries = fs::read_dir(place).with_context(|| place.display().to_string())?;
    Ok(entries
        .flatten()
        .filter(|e| maker_is_gone(&e.file_name().to_string_lossy()))
        .map(|e| e.path())
        .collect())
}
