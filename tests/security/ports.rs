//! Nobody takes the port that callers are steered to, nor the issuer's: not while the guard runs, and not while it is away.

use anyhow::Result;
use imds_guard_tests::{World, require};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

use super::{POLICY, TOKEN};

/// `bind.py ADDRESS PORT OPTION`: binds and listens; `bound`, or `errno N`.
const BINDER: &str = r#"
import socket, sys
address, port, option = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
kind = socket.SOCK_DGRAM if option == "udp" else socket.SOCK_STREAM
s = socket.socket(family, kind, 262 if option == "mptcp" else 0)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if option == "reuseport": s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    if option == "autobind":
        open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("%d %d" % (port, port + 1))
        kept = [socket.socket(), socket.socket()]
        for s in kept: s.listen()
        print("bound" if port in [s.getsockname()[1] for s in kept] else "another")
    else:
        s.bind((address, port))
        if option != "udp": s.listen()
        print("bound")
except OSError as e: print("errno", e.errno)
"#;

const EACCES: &str = "errno 13";
const PORT: &str = "8779";
const ISSUER: &str = "8787";

fn bind(world: &World, address: &str, port: &str, option: &str) -> Result<String> {
    let python = Path::new("/usr/bin/python3");
    let somebody = world.workload("somebody").uid(0).gid(0);
    let output = somebody.run(python, &["-c", BINDER, address, port, option])?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// (address, port, option)
const TAKEN: [(&str, &str, &str); 11] = [
    ("127.0.0.1", PORT, ""),
    ("127.0.0.1", PORT, "reuseport"),
    ("127.0.0.1", PORT, "mptcp"),
    ("127.0.0.2", PORT, ""),
    ("0.0.0.0", PORT, ""),
    ("::1", PORT, ""),
    ("::", PORT, ""),
    ("::ffff:127.0.0.1", PORT, ""),
    ("127.0.0.1", ISSUER, ""),
    ("0.0.0.0", ISSUER, "reuseport"),
    ("::", ISSUER, ""),
];
/// As near as one gets, and allowed.
const FREE: [(&str, &str, &str); 4] = [
    ("127.0.0.1", PORT, "udp"),
    ("127.0.0.1", "8780", ""),
    ("168.63.129.16", PORT, ""),
    ("127.0.0.2", ISSUER, ""),
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_takes_a_port_of_ours_even_while_the_guard_is_away() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("ports")?;
    for (address, port, option) in TAKEN.into_iter().chain(FREE) {
        let said = bind(&world, address, port, option)?;
        assert_eq!(said, "bound", "before: {address} {port} {option}");
    }
    let config = POLICY.replace("[identity", "listen = \"127.0.0.1:8787\"\n[identity");
    let start = || {
        world
            .agent()
            .config(&config)
            .argument("--port=8779")
            .start()
    };
    let mut agent = start()?;
    for away in [false, true] {
        if away {
            agent.signal(Signal::SIGKILL)?;
            agent.wait_end(Duration::from_secs(3))?;
        }
        for (address, port, option) in TAKEN {
            let said = bind(&world, address, port, option)?;
            assert_eq!(said, EACCES, "{address} {port} {option}, away: {away}");
        }
        for (address, port, option) in FREE {
            let said = bind(&world, address, port, option)?;
            assert_eq!(said, "bound", "{address} {port} {option}, away: {away}");
        }
    }
    // Nobody binds here, so no program is asked; but such a listener has no mark.
    assert_eq!(bind(&world, "", PORT, "autobind")?, "bound");
    assert!(world.workload("billing").get(TOKEN).is_err());
    // The guard itself gets its ports back, and serves.
    let _agent = start()?;
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    Ok(())
}
