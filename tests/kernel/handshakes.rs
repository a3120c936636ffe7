//! The hand-over where the two ends of a handshake don't keep step: a record is that of the socket which ended this very
//! handshake, and of no other between the same two ports.

use std::process::Command;

use anyhow::ensure;
use imds_guard_tests::{require, scaled};

use crate::guarded::{ENFORCE, Guarded, IMDS, PORT};

/// Each packet over the loopback waits for those before it, 9 ms each, as behind a processor that is busy.
const SLOW: &str = "qdisc add dev lo root tbf rate 64kbit burst 1540 latency 9s";

/// Fills the queue, then connects and resets at once, again and again: the accepting side is behind each time.
const RESET: &str = r#"
import socket, struct, sys
filler = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(20): filler.sendto(b"x" * 100, ("127.0.0.1", 9))
for _ in range(int(sys.argv[1])):
    s = socket.create_connection(("169.254.169.254", 80))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"#;

fn tool(guarded: &Guarded, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = guarded.world.enter(|| Ok(command.output()?))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_resets_before_the_accepting_side_is_done_has_a_record_all_the_same() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("late").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let slow: Vec<&str> = SLOW.split(' ').collect();
    tool(&guarded, "tc", &slow).unwrap();
    let total = scaled(16);
    let web = guarded.world.workload("web").uid(1001).gid(2002);
    let python = "/usr/bin/python3".as_ref();
    let output = web.run(python, &["-c", RESET, &total.to_string()]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let tally = holder.settled(total).unwrap();
    let all = format!("accepted={total} missing=0 wrong=0 silent={total} ");
    assert!(tally.starts_with(&all), "{tally}");
    assert!(tally.contains(" uid: 1001,"), "{tally}");
    assert_eq!(holder.number("counters", "HandedOver").unwrap(), total);
}

/// Rules by which somebody who rules a network namespace sends its own SYN from the port of another, whose SYN is dropped.
fn taking_over(listener: u16) -> String {
    format!(
        "table ip attack {{
            chain out {{ type filter hook output priority 0; tcp sport 45000 tcp dport {listener} drop; }}
            chain to {{ type nat hook output priority -100; tcp sport 45001 tcp dport 99 dnat to 127.0.0.1:{listener}; }}
            chain from {{ type nat hook postrouting priority 100; tcp sport 45001 tcp dport {listener} snat to 127.0.0.1:45000; }}
        }}"
    )
}

/// From port 45000, and doesn't wait.
const VICTIM: &str = r#"
import socket, time
s = socket.socket()
s.bind(("127.0.0.1", 45000))
s.setblocking(False)
s.connect_ex(("169.254.169.254", 80))
print("begun", flush=True)
time.sleep(60)
"#;

/// To where it is translated to the listener, from port 45001.
const TAKER: &str = r#"
import socket
s = socket.socket()
s.bind(("127.0.0.1", 45001))
s.settimeout(3)
s.connect(("127.0.0.1", 99))
s.close()
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_translates_addresses_takes_nobodys_record() {
    use std::io::{BufRead as _, BufReader};
    require!(Root, Cgroup2, Bpf, Nft);
    let guarded = Guarded::new("snat").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    tool(&guarded, "nft", &[&taking_over(PORT)]).unwrap();
    let python = std::path::Path::new("/usr/bin/python3");
    let web = guarded.world.workload("web").uid(1001).gid(2002);
    let mut victim = web.spawn(python, &["-c", VICTIM]).unwrap();
    let mut said = String::new();
    let mut from = BufReader::new(victim.stdout.take().unwrap());
    from.read_line(&mut said).unwrap();
    assert_eq!(said, "begun\n");
    let other = guarded.world.workload("other").uid(1002);
    let output = other.run(python, &["-c", TAKER]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let tally = holder.settled(1).unwrap();
    assert!(tally.starts_with("accepted=1 missing=1 wrong=0"), "{tally}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    // The twin: who is let through has its own.
    tool(&guarded, "nft", &["delete table ip attack"]).unwrap();
    guarded.call_as_web(&["once", IMDS]).unwrap();
    let tally = holder.settled(2).unwrap();
    assert!(tally.starts_with("accepted=2 missing=1 wrong=0"), "{tally}");
}
