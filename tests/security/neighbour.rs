//! What a flood by one workload does to another: it is answered, and how much later is measured. The figures are printed.

use anyhow::{Context, Result, ensure};
use imds_guard_tests::{Workload, World, require};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::Child;

use super::{TOKEN, agent};

/// Goes on until it is killed. `syn` begins handshakes that it never ends, thousands at a time (it refuses to see the
/// SYN-ACK: `IP_MINTTL` 255, which needs no privilege; 24 is `IP_BIND_ADDRESS_NO_PORT`); `hold` connects, says nothing and
/// keeps thousands; `direct` does so at the listener's own port; `ask` sends requests that are refused, and doesn't wait for the answers.
const FLOOD: &str = r#"
import collections, resource, socket, sys
kind = sys.argv[1]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept, most = collections.deque(), min(hard, 12000) - 100
request = b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
def one(n):
    s = socket.socket()
    s.settimeout(5)
    if kind == "syn":
        s.setblocking(False)
        s.setsockopt(socket.IPPROTO_IP, 21, 255)
        s.setsockopt(socket.IPPROTO_IP, 24, 1)
        s.bind(("127.9.%d.1" % (n // 5000 % 200), 0))
        s.connect_ex(("169.254.169.254", 80))
    else:
        s.connect(("127.0.0.1", 8788) if kind == "direct" else ("169.254.169.254", 80))
        if kind == "ask": s.sendall(request)
    return s
n = 0
while True:
    n += 1
    if n == 3000: print("flooding", flush=True)
    try:
        s = one(n)
    except OSError:
        continue
    if kind == "ask": continue
    kept.append(s)
    if len(kept) > most: kept.popleft().close()
"#;

/// Asks 100 times, each time on a new connection; says how often it got a token, and how many milliseconds half and 99 of
/// 100 took at most, and the slowest.
const ASK: &str = r#"
import socket, sys, time
request = ("GET %s HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n" % sys.argv[1]).encode()
took, good = [], 0
for _ in range(100):
    begun = time.monotonic()
    try:
        s = socket.create_connection(("169.254.169.254", 80), 10)
        s.sendall(request)
        good += s.recv(12) == b"HTTP/1.1 200"
        s.close()
    except OSError: pass
    took.append((time.monotonic() - begun) * 1000)
took.sort()
print(good, *("%.2f" % took[i] for i in (50, 98, 99)))
"#;

/// A process that goes on until this is dropped.
struct Flood(Child);

impl Flood {
    fn begin(who: &Workload<'_>, kind: &str) -> Result<Self> {
        let mut flood = Self(who.spawn(Path::new("/usr/bin/python3"), &["-c", FLOOD, kind])?);
        let mut said = String::new();
        BufReader::new(flood.0.stdout.take().context("no pipe")?).read_line(&mut said)?;
        if said.is_empty() {
            let mut errors = String::new();
            let mut pipe = flood.0.stderr.take().context("no pipe")?;
            pipe.read_to_string(&mut errors)?;
            anyhow::bail!("{kind}: {errors}");
        }
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Tokens, and the three figures.
fn neighbour(world: &World) -> Result<(u32, [f64; 3])> {
    let who = world.workload("billing");
    let output = who.run(Path::new("/usr/bin/python3"), &["-c", ASK, TOKEN])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = said.split_whitespace().collect();
    let [good, half, most, slowest] = words[..] else {
        anyhow::bail!("{said} {}", String::from_utf8_lossy(&output.stderr));
    };
    Ok((
        good.parse()?,
        [half.parse()?, most.parse()?, slowest.parse()?],
    ))
}

#[expect(clippy::print_stderr, reason = "figures, for whoever reads")]
fn show(what: &str, figures: [f64; 3]) {
    let [half, most, slowest] = figures;
    eprintln!("{what}: half within {half} ms, 99 of 100 within {most} ms, slowest {slowest} ms");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_flood_by_one_workload_keeps_its_neighbour_from_nothing() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("floods")?;
    let _agent = agent(&world)?;
    let (good, quiet) = neighbour(&world)?;
    ensure!(good == 100, "{good} of 100 without a flood");
    show("no flood", quiet);
    for kind in ["syn", "hold", "direct", "ask"] {
        let hostile = world.workload("hostile").uid(1001);
        let flood = Flood::begin(&hostile, kind)?;
        let (good, figures) = neighbour(&world)?;
        show(kind, figures);
        assert_eq!(good, 100, "{kind}");
        // Most SDKs wait a second; where a SYN finds no room, the next one comes after a second. On a machine that does
        // other things beside, the slowest says little.
        assert!(figures[0] < 1000.0, "{kind}: {figures:?}");
        drop(flood);
    }
    Ok(())
}
