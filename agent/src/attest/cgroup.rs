//! `cgroup:path`, from the cgroup ids in the kernel's record: opened by id on the cgroup2 mount, never taken from a file
//! that the caller's namespaces could bend.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::{CallerRecord, missing};
use nix::errno::Errno;

use crate::sys::cgroup::{open_by_id, path_of};

/// Most resolved paths that are kept. A cgroup's id is never used again, so an entry never becomes wrong.
const CACHE_LIMIT: usize = 4096;

/// The machine can't tell cgroups.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroup2 {
    /// No cgroup2 mount in `/proc/self/mountinfo`.
    #[error(
        "no cgroup2 hierarchy is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`) or boot with systemd"
    )]
    NotMounted,
    /// It is mounted and can't be opened.
    #[error("can't open the cgroup2 mount {0}: {1}")]
    Open(PathBuf, #[source] std::io::Error),
    /// `/proc` can't be opened.
    #[error("can't open /proc: {0}")]
    Proc(#[source] Errno),
}

/// A cgroup's path below the hierarchy's root, or why it is not known.
pub type CgroupPath = Result<Arc<str>, Arc<str>>;

/// The cgroup2 hierarchy, and the paths of its cgroups.
#[derive(Debug)]
pub struct Cgroups {
    mount_point: PathBuf,
    mount: OwnedFd,
    paths: HashMap<u64, Arc<str>>,
}

impl Cgroups {
    /// Finds the mount.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find() -> Result<Self, NoCgroup2> {
        let mounts =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(|_| NoCgroup2::NotMounted)?;
        let mount_point = mount_point(&mounts).ok_or(NoCgroup2::NotMounted)?;
        let mount = File::open(&mount_point)
            .map_err(|e| NoCgroup2::Open(mount_point.clone(), e))?
            .into();
        Ok(Self {
            mount_point,
            mount,
            paths: HashMap::new(),
        })
    }

    /// Where the hierarchy is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The path of a cgroup, e.g. `/system.slice/billing.service`.
    ///
    /// # Errors
    /// Why it is not known, in words for the operator.
    pub fn path(&mut self, id: u64) -> CgroupPath {
        if let Some(path) = self.paths.get(&id) {
            return Ok(Arc::clone(path));
        }
        let path = self.resolve(id)?;
        if self.paths.len() >= CACHE_LIMIT {
            self.paths.clear();
        }
        self.paths.insert(id, Arc::clone(&path));
        Ok(path)
    }

    /// The path of the cgroup in which the caller's socket was made.
    ///
    /// # Errors
    /// As [`Cgroups::path`].
    pub fn path_of_socket(&mut self, record: &CallerRecord) -> CgroupPath {
        if record.has(missing::SOCKET_CGROUP) {
            self.path(record.socket_cgroup_id)
        } else {
            Err("the kernel could not read the socket's cgroup".into())
        }
    }

    /// The id of the cgroup at this path.
    pub fn id_of(&self, path: &str) -> Option<u64> {
        let dir = self.mount_point.join(path.trim_start_matches('/'));
        let meta = std::fs::metadata(dir).ok()?;
        Some(std::os::unix::fs::MetadataExt::ino(&meta))
    }

    fn resolve(&self, id: u64) -> CgroupPath {
        let dir = open_by_id(self.mount.as_fd(), id).map_err(|errno| match errno {
            Errno::ESTALE => Arc::from("the cgroup was removed"),
            _ => Arc::from(format!("cgroup {id}: {errno}")),
        })?;
        let path = path_of(dir.as_fd()).map_err(|errno| format!("cgroup {id}: {errno}"))?;
        let below = path
            .strip_prefix(&self.mount_point)
            .map_err(|_| format!("cgroup {id} lies outside {}", self.mount_point.display()))?;
        let below = below.to_str().ok_or("the cgroup's path is not UTF-8")?;
        if below.ends_with(" (deleted)") {
            return Err("the cgroup was removed".into());
        }
        Ok(format!("/{below}").into())
    }
}

/// Adds `cgroup:path`. A caller outside the cgroup in which its socket was made is in two places: then no path counts.
pub fn attest(own: &CgroupPath, sockets: &CgroupPath, out: &mut Selectors) {
    match (own, sockets) {
        (Ok(own), Ok(sockets)) if own == sockets => out.found(Key::CgroupPath, Arc::clone(own)),
        (Ok(own), Ok(sockets)) => out.unavailable(
            Key::CgroupPath,
            format!("the caller is in {own}, its socket was made in {sockets}"),
        ),
        (Err(why), _) | (_, Err(why)) => out.unavailable(Key::CgroupPath, Arc::clone(why)),
    }
}

/// The mount point of the first cgroup2 mount in the text of `mountinfo`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let is_cgroup2 = kind.split(' ').next() == Some("cgroup2");
        let at = fields.split(' ').nth(4)?;
        // Octal escapes: a mount point with white space in its name.
        is_cgroup2.then(|| PathBuf::from(at.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_mount_is_found_and_cgroup_v1_is_not() {
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      38 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            mount_point("32 31 0:29 / /x rw - cgroup cgroup rw,cpu"),
            None
        );
    }

    #[test]
    fn a_socket_from_elsewhere_leaves_no_path() {
        let mut out = Selectors::default();
        attest(&Ok("/a".into()), &Ok("/b".into()), &mut out);
        assert!(out.is_unavailable(Key::CgroupPath));
        let mut out = Selectors::default();
        attest(&Ok("/a".into()), &Ok("/a".into()), &mut out);
        assert_eq!(out.present(Key::CgroupPath)[0].as_ref(), "/a");
    }

    #[test]
    fn ids_resolve_to_paths_and_removed_cgroups_to_none() {
        let mut cgroups = Cgroups::find().unwrap();
        let name = format!("attest-{}", std::process::id());
        let dir = cgroups.mount_point().join(&name);
        std::fs::create_dir(&dir).unwrap();
        let id = cgroups.id_of(&name).unwrap();
        assert_eq!(cgroups.path(id).unwrap().as_ref(), format!("/{name}"));
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(
            cgroups.path(id).unwrap().as_ref(),
            format!("/{name}"),
            "kept"
        );
        cgroups.paths.clear();
        assert!(cgroups.path(id).unwrap_err().contains("removed"));
        assert_eq!(
            cgroups.path(cgroups.id_of("/").unwrap()).unwrap().as_ref(),
            "/"
        );
    }
}
