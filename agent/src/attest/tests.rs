//! Attestation of real processes, on the real `/proc`.

use super::*;
use crate::sys::pidfd::PidFd;
use std::process::{Child, Command};

struct Running(Child);

impl Running {
    fn start(program: &str, args: &[&str]) -> Self {
        let child = Command::new(program).args(args).spawn().unwrap();
        // Until it has executed: before that it is still us.
        let exe = format!("/proc/{}/exe", child.id());
        let us = std::fs::read_link("/proc/self/exe").unwrap();
        while std::fs::read_link(&exe).unwrap() == us {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn attestor() -> Attestor {
    Attestor::new(Some(7)).unwrap()
}

#[test]
fn a_process_is_attested_once_and_then_known() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    let record = attestor.record_of(sleep.0.id()).unwrap();
    let first = attestor.attest(&record).unwrap();
    let path = first.selectors.present(Key::UnixPath)[0].to_string();
    assert!(
        path.ends_with("sleep") || path.contains("coreutils"),
        "{path}"
    );
    assert!(!first.selectors.present(Key::UnixUid).is_empty());
    assert!(first.selectors.is_unavailable(Key::UnixSha256));
    let reads = attestor.proc.opened();
    for port in 0..100 {
        let next = CallerRecord {
            socket_cookie: u64::from(port),
            port,
            ..record
        };
        assert!(Rc::ptr_eq(&attestor.attest(&next).unwrap(), &first));
    }
    assert_eq!(
        attestor.proc.opened(),
        reads,
        "a known process was read again"
    );
}

#[test]
fn hashes_come_only_when_a_rule_wants_them() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    attestor.wants_hash(true);
    let record = attestor.record_of(sleep.0.id()).unwrap();
    let found = attestor.attest(&record).unwrap();
    assert_eq!(found.selectors.present(Key::UnixSha256)[0].len(), 64);
}

#[test]
fn another_start_time_is_another_process() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    let mut record = attestor.record_of(sleep.0.id()).unwrap();
    record.start_boottime += 20_000_000;
    assert!(matches!(
        attestor.attest(&record),
        Err(AttestError::Recycled(_))
    ));
}

#[test]
fn another_inode_of_the_pidfd_is_another_process() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    let mut record = attestor.record_of(sleep.0.id()).unwrap();
    record.process_inode = PidFd::open(sleep.0.id()).unwrap().inode().unwrap();
    let mut other = record;
    other.process_inode += 1;
    assert!(matches!(
        attestor.attest(&other),
        Err(AttestError::Recycled(_))
    ));
    attestor.attest(&record).unwrap();
}

#[test]
fn a_dead_process_is_gone_also_from_the_cache() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    let record = attestor.record_of(sleep.0.id()).unwrap();
    let known = attestor.attest(&record).unwrap();
    assert_eq!(attestor.held(), 1);
    drop(sleep);
    assert!(matches!(
        attestor.attest(&record),
        Err(AttestError::Gone(_))
    ));
    assert_eq!(attestor.held(), 0);
    drop(known);
    assert!(matches!(
        attestor.attest(&record),
        Err(AttestError::Gone(_))
    ));
}

#[test]
fn sweeping_forgets_the_dead_and_keeps_the_living() {
    let (a, b) = (
        Running::start("sleep", &["60"]),
        Running::start("sleep", &["61"]),
    );
    let mut attestor = attestor();
    for child in [&a, &b] {
        let record = attestor.record_of(child.0.id()).unwrap();
        attestor.attest(&record).unwrap();
    }
    drop(a);
    attestor.sweep();
    assert_eq!(attestor.held(), 1);
}

#[test]
fn another_user_or_cgroup_than_recorded_is_refused() {
    let sleep = Running::start("sleep", &["60"]);
    let mut attestor = attestor();
    let record = attestor.record_of(sleep.0.id()).unwrap();
    let uid = CallerRecord {
        uid: record.uid + 1,
        ..record
    };
    assert!(matches!(
        attestor.attest(&uid),
        Err(AttestError::Changed(_, "user"))
    ));
    let cgroup = CallerRecord {
        cgroup_id: record.cgroup_id + 1,
        ..record
    };
    assert!(matches!(
        attestor.attest(&cgroup),
        Err(AttestError::Changed(_, "cgroup"))
    ));
    assert!(attestor.attest(&record).is_ok());
}

#[test]
fn the_successor_of_an_exec_lends_nothing() {
    // sh, then by exec sleep: the same process, another executable.
    let mut shell = Command::new("sh")
        .args(["-c", "read line; exec sleep 60"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut attestor = attestor();
    attestor.wants_hash(true);
    let record = attestor.record_of(shell.id()).unwrap();
    let before = std::fs::read_link(format!("/proc/{}/exe", shell.id())).unwrap();
    drop(shell.stdin.take());
    while std::fs::read_link(format!("/proc/{}/exe", shell.id())).unwrap() == before {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let running = Running(shell);
    let found = attestor.attest(&record).unwrap();
    assert!(found.selectors.is_unavailable(Key::UnixPath));
    assert!(found.selectors.is_unavailable(Key::UnixSha256));
    assert!(!found.selectors.present(Key::UnixUid).is_empty());
    assert!(matches!(
        attestor.recheck(&record),
        Err(AttestError::Changed(_, "executable"))
    ));
    assert!(attestor.still(&record).is_ok());
    drop(running);
}

#[test]
fn a_panicking_attestor_makes_its_keys_unavailable_and_no_others() {
    let mut selectors = Selectors::default();
    contain(&mut selectors, unix::KEYS, |out| {
        out.found(Key::UnixUid, "0");
        panic!("defect");
    });
    contain(&mut selectors, &[Key::CgroupPath], |out| {
        out.found(Key::CgroupPath, "/a")
    });
    assert!(unix::KEYS.iter().all(|key| selectors.is_unavailable(*key)));
    assert_eq!(selectors.present(Key::CgroupPath).len(), 1);
}

#[test]
fn the_cache_is_bounded() {
    let mut attestor = attestor();
    let sleep = Running::start("sleep", &["60"]);
    let record = attestor.record_of(sleep.0.id()).unwrap();
    let known = attestor.attest(&record).unwrap();
    for netns in 0..CACHE_LIMIT as u64 + 10 {
        let key = ProcessKey {
            netns,
            ..ProcessKey::from(&record)
        };
        attestor.remember(key, &known);
    }
    assert_eq!(attestor.held(), CACHE_LIMIT);
    assert_eq!(attestor.by_age.len(), CACHE_LIMIT);
}
