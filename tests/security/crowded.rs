//! Crowding the listener is no way past a deny: in audit, too, who begins more than its share of connections is refused.

use anyhow::{Context as _, Result};
use imds_guard_tests::{World, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

use super::{INSTANCE, POLICY, python, said};

/// Begins connections as fast as it can, and asks on each; says how many were refused and how many got an answer meanwhile.
const CROWD: &str = r#"
import select, socket, sys
kept, refused = [], 0
for _ in range(160):
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect(("169.254.169.254", 80))
        s.sendall(("GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n" % sys.argv[1]).encode())
        kept.append(s)
    except ConnectionRefusedError:
        refused += 1
answered = len(select.select(kept, [], [], 1)[0])
print(refused, answered)
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_audit_a_crowd_is_refused_and_leads_nobody_past_a_deny() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("crowded")?;
    let azure = world.azure()?;
    let policy = format!(
        "[endpoints]\nazure-imds = \"audit\"\n{POLICY}
        [[deny]]
        selectors = [\"unix:uid:1001\"]
        read = [\"azure:/**\"]
        "
    );
    let agent = world.agent().config(&policy).start()?;
    let hostile = world.workload("hostile").uid(1001);
    assert_eq!(hostile.get(INSTANCE)?.status, 403, "it is denied");
    // Who is neither granted nor denied passes: the twin.
    let other = world.workload("other").uid(1002);
    assert_eq!(other.get(INSTANCE)?.status, 200);
    let asked = azure.received().len();
    let proxy = *agent.children().first().context("no proxy")?;
    let proxy = Pid::from_raw(proxy.try_into()?);
    kill(proxy, Signal::SIGSTOP)?;
    let crowd = said(
        &hostile,
        Path::new("/usr/bin/python3"),
        &["-c", CROWD, INSTANCE],
    );
    kill(proxy, Signal::SIGCONT)?;
    let crowd = crowd?;
    let counted: Vec<u32> = crowd.split_whitespace().flat_map(str::parse).collect();
    assert!(
        matches!(counted[..], [refused, 0] if refused > 40),
        "{crowd}"
    );
    assert_eq!(azure.received().len(), asked, "{crowd}");
    assert_eq!(other.get(INSTANCE)?.status, 200, "and afterwards as before");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_waits_in_the_queue_who_was_not_steered_there() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("direct-queue")?;
    let _agent = world.agent().config(POLICY).start()?;
    let hostile = world.workload("hostile").uid(1001);
    let tried = python(
        &hostile,
        r#"
for family, address in ((2, "127.0.0.1"), (2, "0.0.0.0"), (10, "::1"), (10, "::"), (10, "::ffff:127.0.0.1")):
    s = socket.socket(family)
    print(s.connect_ex((address, 8788)))
# Where nobody of ours listens, the port is as any other.
print(socket.socket().connect_ex(("127.0.0.2", 8788)))
"#,
        &[],
    )?;
    assert_eq!(tried.split_whitespace().collect::<Vec<_>>(), ["111"; 6]);
    assert_eq!(world.workload("billing").get(super::TOKEN)?.status, 200);
    Ok(())
}
