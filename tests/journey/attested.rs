//! What an attestation costs and how long it holds: once per process, and never beyond what it rests on.

use super::policy::twice;
use super::{MINTS, config, world};
use imds_guard_tests::scaled;
use std::path::Path;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_grant_that_rests_on_a_supplementary_group_ends_with_the_group() {
    let world = world("groups");
    let rules = r#"
[[workload]]
name = "in-the-group"
selectors = ["unix:uid:0", "unix:gid:2000", "unix:supplementary_gid:44"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
[[workload]]
name = "whatever-group"
selectors = ["unix:uid:0", "unix:gid:2001"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
"#;
    let _agent = world
        .agent()
        .config(&config("enforce", rules))
        .start()
        .unwrap();
    // Uid 0, for it takes a capability to change one's groups, and the other ids stay what the kernel recorded.
    let statuses = |gid: u32, before: &str| {
        let workload = world.workload("billing").uid(0).gid(gid).groups(&[44, 45]);
        let output = workload
            .run(Path::new("/usr/bin/python3"), &["-c", &twice(before)])
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(statuses(2000, "pass"), "200\n200\n");
    assert_eq!(statuses(2000, "os.setgroups([45])"), "200\n403\n");
    assert_eq!(statuses(2001, "os.setgroups([45])"), "200\n200\n");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_thousand_connections_of_one_process_are_one_attestation() {
    let world = world("once");
    let times = usize::try_from(scaled(1000)).unwrap();
    let agent = world
        .agent()
        .log_level("info,imds_guard::guard::answers=debug")
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let script = format!(
        r#"
import os, socket
print(os.getpid())
for i in range({}):
    s = socket.create_connection(("169.254.169.254", 80))
    s.sendall(b"{}")
    assert s.recv(65536).startswith(b"HTTP/1.1 200"), i
    s.close()
"#,
        times,
        super::get(super::LOCATION).replace("\r\n", "\\r\\n")
    );
    let asked = |pid: &str| {
        let line = format!("asked to attest pid={pid}");
        agent.log().lines().filter(|l| l.ends_with(&line)).count()
    };
    let mut pids = vec![];
    for _ in 0..2 {
        let output = world
            .workload("billing")
            .run(Path::new("/usr/bin/python3"), &["-c", &script])
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        pids.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    // Another process with the same ids in the same cgroup is another process.
    for pid in &pids {
        assert_eq!(asked(pid), 1, "pid {pid}: {}", agent.log());
    }
    let exchanges = agent.audit().wait_exchanges(2 * times).unwrap();
    assert_eq!(exchanges.len(), 2 * times);
}
