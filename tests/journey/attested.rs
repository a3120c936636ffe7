//! What an attestation costs and how long it holds: once per process, and never beyond what it rests on.

use super::{MINTS, config, world};
use std::path::Path;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_thousand_connections_of_one_process_are_one_attestation() {
    let world = world("once");
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
for i in range(1000):
    s = socket.create_connection(("169.254.169.254", 80))
    s.sendall(b"{}")
    assert s.recv(65536).startswith(b"HTTP/1.1 200"), i
    s.close()
"#,
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
    let exchanges = agent.audit().wait_exchanges(2000).unwrap();
    assert_eq!(exchanges.len(), 2000);
}
