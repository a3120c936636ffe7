//! One caller can't keep the others out: handshakes that it begins and never ends take nobody's place.

use anyhow::{Context, Result};
use imds_guard_tests::{World, require};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::{TOKEN, agent};

/// More than the kernel's table of handshakes holds.
const PENDING: u32 = 70_000;

/// Begins connections to the metadata address whose SYN-ACK it refuses to see (`IP_MINTTL` 255, which needs no privilege; 24
/// is `IP_BIND_ADDRESS_NO_PORT`), says `held N` and keeps them.
const HOLD: &str = r#"
import os, resource, socket, sys, time
wanted = int(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
each = min(hard, 20000) - 100
def hold(n, net):
    kept = []
    for i in range(n):
        s = socket.socket()
        s.setblocking(False)
        s.setsockopt(socket.IPPROTO_IP, 21, 255)
        s.setsockopt(socket.IPPROTO_IP, 24, 1)
        s.bind(("127.%d.%d.1" % (net, i // 5000), 0))
        s.connect_ex(("169.254.169.254", 80))
        kept.append(s)
    return kept
kept, parts, left = [], 0, wanted
children = []
while left > 0:
    parts += 1
    n = min(each, left)
    left -= n
    r, w = os.pipe()
    if os.fork() == 0:
        kept = hold(n, parts)
        os.write(w, b"x")
        time.sleep(600)
    os.close(w)
    if os.read(r, 1) != b"x": sys.exit("a part has failed")
print("held", wanted, flush=True)
time.sleep(600)
"#;

/// Connects as often as it may, says so, and keeps all of it.
const KEEP: &str = r#"
import socket, time
kept = []
while len(kept) < 300:
    try: kept.append(socket.create_connection(("169.254.169.254", 80), 10))
    except ConnectionRefusedError: time.sleep(0.02)
print("kept", flush=True)
time.sleep(600)
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn many_identities_that_hold_all_seats_keep_nobody_out() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("seats")?;
    let agent = agent(&world)?;
    let mut holders = vec![];
    // Each gets 256 of 1024: a user with subordinate ids is 65,536 of these.
    for uid in 1101..1106 {
        let who = world.workload("hostile").uid(uid);
        let mut holder = who.spawn(Path::new("/usr/bin/python3"), &["-c", KEEP])?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("no pipe")?).read_line(&mut said)?;
        assert_eq!(said, "kept\n");
        holders.push(holder);
    }
    for round in 0..20 {
        let answer = world.workload("billing").get(TOKEN);
        assert_eq!(answer?.status, 200, "round {round}");
    }
    let throttled = agent.audit().exchanges()?;
    let of_caller = |line: &&serde_json::Value| line["reason"] == "connections_of_caller";
    assert!(
        throttled.iter().any(|line| of_caller(&line)),
        "its own bound is hit"
    );
    for mut holder in holders {
        holder.kill()?;
        holder.wait()?;
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn one_callers_unfinished_handshakes_keep_nobody_out() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("flood")?;
    let _agent = agent(&world)?;
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    let mut hostile = world.workload("hostile").uid(1001).spawn(
        Path::new("/usr/bin/python3"),
        &["-c", HOLD, &PENDING.to_string()],
    )?;
    let mut said = String::new();
    BufReader::new(hostile.stdout.take().context("no pipe")?).read_line(&mut said)?;
    if said.is_empty() {
        let errors = hostile.wait_with_output()?.stderr;
        anyhow::bail!("{}", String::from_utf8_lossy(&errors));
    }
    for round in 0..20 {
        let answer = world.workload("billing").get(TOKEN);
        assert_eq!(answer?.status, 200, "round {round}");
    }
    hostile.kill()?;
    hostile.wait()?;
    Ok(())
}
