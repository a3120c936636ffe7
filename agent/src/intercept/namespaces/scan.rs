//! Where processes live: those of a cgroup tree, and the network namespaces that have a name.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where `ip netns` and container runtimes keep namespaces in which no process need live.
const NAMED: &str = "/run/netns";

/// The numbers of all processes in the cgroup `root` and below it, in no order. One that moves meanwhile may be missing.
pub(super) fn processes(root: &Path) -> Vec<u32> {
    let mut found = vec![];
    let mut left = vec![root.to_owned()];
    while let Some(cgroup) = left.pop() {
        // A cgroup may be removed meanwhile; one of threads has its processes listed further up.
        if let Ok(procs) = fs::read_to_string(cgroup.join("cgroup.procs")) {
            // 0 is a process outside of our pid namespace.
            let numbers = procs.lines().filter_map(|line| line.parse::<u32>().ok());
            found.extend(numbers.filter(|pid| *pid != 0));
        }
        let Ok(below) = fs::read_dir(&cgroup) else {
            continue;
        };
        let directories = below.flatten().filter(|entry| {
            let kind = entry.file_type();
            kind.is_ok_and(|kind| kind.is_dir())
        });
        left.extend(directories.map(|entry| entry.path()));
    }
    found
}

/// The threads of a process.
pub(super) fn threads(tgid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{tgid}/task")) else {
        return vec![];
    };
    let numbers = tasks
        .flatten()
        .map(|t| t.file_name().to_str()?.parse().ok());
    numbers.flatten().collect()
}

/// Inode of the network namespace of a process' main thread.
pub(super) fn of_process(tgid: u32) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{tgid}/ns/net"))?.ino())
}

/// The same of any thread.
pub(super) fn of_thread(tgid: u32, tid: u32) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{tgid}/task/{tid}/ns/net"))?.ino())
}

/// The namespaces with a name: inode and path.
pub(super) fn named() -> Vec<(u64, PathBuf)> {
    let (Ok(entries), Ok(ours)) = (fs::read_dir(NAMED), fs::metadata("/proc/self/ns/net")) else {
        return vec![];
    };
    let namespace = |path: PathBuf| {
        let is = fs::metadata(&path).ok()?;
        // Others than namespaces are an `ip netns add` under way, or none of our business.
        (is.dev() == ours.dev()).then(|| (is.ino(), path))
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter_map(namespace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_are_found_where_they_are() {
        let us = std::process::id();
        let threads = threads(us);
        assert!(threads.contains(&us) || !threads.is_empty());
        let home = of_process(us).unwrap();
        assert!(
            threads
                .iter()
                .all(|tid| of_thread(us, *tid).is_ok_and(|at| at == home))
        );
        assert!(of_process(u32::MAX).is_err());
    }

    #[test]
    fn processes_are_read_from_a_tree_and_odd_lines_are_none() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(root.path().join("cgroup.procs"), "1\n0\n22\n").unwrap();
        fs::write(below.join("cgroup.procs"), "333\nx\n").unwrap();
        let mut found = processes(root.path());
        found.sort_unstable();
        assert_eq!(found, [1, 22, 333]);
        assert!(processes(Path::new("/nowhere")).is_empty());
    }
}
