//! Frames that nobody's socket sent as packets: AF_PACKET, with and without the queueing discipline, with VLAN tags. They
//! arrive while nobody guards, and don't while somebody does or did; the proxy's own packets go through all of it.

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{AgentProcess, Sniffer, kernel_is_at_least, require};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::TOKEN;
use super::egress::{Cable, FORWARDS, IMDS, IMDS_V6, NEIGHBOUR, ip};

/// By (way, target).
const FRAMES: [(&str, &str); 10] = [
    ("packet", IMDS),
    ("packet-marked", IMDS),
    ("packet-bypass", IMDS),
    ("packet-tagged", IMDS),
    ("packet-tagged-bypass", IMDS),
    ("packet-two-tags", IMDS),
    ("packet-two-tags-bypass", IMDS),
    ("packet-fragment", IMDS),
    ("packet", IMDS_V6),
    ("packet-tagged", IMDS_V6),
];

fn all(cable: &Cable, arrive: bool, when: &str) -> Result<()> {
    for (frame, (arrived, said)) in FRAMES.iter().zip(cable.each_arrives(&FRAMES)?) {
        assert_eq!(arrived, arrive, "{when}: {frame:?}: {said}");
    }
    let others = [
        "packet",
        "packet-bypass",
        "packet-tagged",
        "packet-fragment",
    ];
    let others = others.map(|way| (way, NEIGHBOUR));
    for (frame, (arrived, said)) in others.iter().zip(cable.each_arrives(&others)?) {
        assert!(arrived, "{when}: {frame:?} to another: {said}");
    }
    Ok(())
}

/// Waits for a line of the log that has both in it.
fn logged(agent: &AgentProcess, layer: &str, words: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let has = |line: &str| line.contains(layer) && line.contains(words);
    while !agent.log().lines().any(has) {
        ensure!(
            Instant::now() < deadline,
            "no `{words}` of {layer} in\n{}",
            agent.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn frames_made_by_hand_reach_no_metadata_address_until_it_is_torn_down() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("frames")?;
    let azure = cable.world.azure()?;
    all(&cable, true, "before")?;
    let agent = cable.world.agent().config(FORWARDS).start()?;
    // Before Linux 6.6 netfilter alone has to stop all of them.
    let tcx = ["tcx is in Linux from 6.6", "stands"][usize::from(kernel_is_at_least(6, 6))];
    logged(&agent, "\"frames\"", tcx)?;
    logged(&agent, "frames by netfilter", "stands")?;
    all(&cable, false, "guarded")?;
    let answer = cable.world.workload("billing").get(TOKEN)?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(azure.received().len(), 1);
    agent.signal(Signal::SIGKILL)?;
    drop(agent);
    all(&cable, false, "while the guard is away")?;
    // A new start has a new passage, and its proxy passes.
    let agent = cable.world.agent().config(FORWARDS).start()?;
    assert_eq!(cable.world.workload("billing").get(TOKEN)?.status, 200);
    all(&cable, false, "after a restart")?;
    drop(agent);
    teardown(&cable)?;
    all(&cable, true, "torn down")
}

fn teardown(cable: &Cable) -> Result<()> {
    let world = &cable.world;
    let program = world.show(&imds_guard_tests::binary("imds-guard")?, "imds-guard")?;
    let pins = world.directory().join("bpf/imds-guard");
    world.enter(|| {
        let mut command = Command::new(program);
        let output = command
            .arg("teardown")
            .arg("--pin-dir")
            .arg(pins)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tables = Command::new("nft").args(["list", "tables"]).output()?;
        ensure!(tables.stdout.is_empty(), "{tables:?}");
        Ok(())
    })
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_uplink_that_comes_late_and_comes_back_is_guarded() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let mut cable = Cable::new("late")?;
    // Both ends are here: what leaves by one comes in by the other, where the sniffer is.
    cable.sniffer = cable.world.enter(Sniffer::open)?;
    let policy = format!("{FORWARDS}\n[hardening]\nuplinks = [\"tw-late\"]");
    let agent = cable.world.agent().config(&policy).start()?;
    logged(&agent, "\"frames\"", "tw-late isn't there")?;
    for round in 0..2 {
        let from = agent.log().len();
        cable.world.enter(|| {
            ip("link add tw-late type veth peer name tw-late2")?;
            ip("link set tw-late2 up")?;
            ip("link set tw-late up")
        })?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !agent.log()[from..].contains("stands") {
            ensure!(Instant::now() < deadline, "{round}: {}", agent.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        for way in ["packet", "packet-bypass"] {
            let stopped = cable.arrives_by("tw-late", way, IMDS)?.0;
            assert!(!stopped, "{round}: {way}");
            assert!(
                cable.arrives_by("tw-late", way, NEIGHBOUR)?.0,
                "{round}: {way}"
            );
        }
        cable.world.enter(|| ip("link delete tw-late"))?;
        logged(&agent, "\"frames\"", "tw-late isn't there")?;
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Sees frames of an interface for a second, as a holder of CAP_NET_RAW can; prints `listening`, then how many
/// IPv4 packets among them had a mark (SKF_AD_MARK of include/uapi/linux/filter.h; IPv6's multicast reports use the field for
/// something else).
const TAP: &str = r#"
import ctypes, socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
filter = struct.pack("=HBBI", 0x20, 0, 0, 0xfffff000 + 20) + struct.pack("=HBBI", 0x15, 0, 1, 0)
filter += struct.pack("=HBBI", 0x06, 0, 0, 0) + struct.pack("=HBBI", 0x06, 0, 0, 65535)
kept = ctypes.create_string_buffer(filter)
s.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 4, ctypes.addressof(kept)))
while True:
    s.settimeout(0.05)
    try: s.recv(4096)
    except socket.timeout: break
print("listening", flush=True)
end, seen = time.time() + 1, 0
while time.time() < end:
    try: seen += s.recv(4096)[12:14] == b"\x08\0"
    except socket.timeout: pass
print(seen)
"#;

/// How many marked frames a tap on `interface` sees while `work` is done.
fn marked(cable: &Cable, interface: &str, work: impl FnOnce() -> Result<()>) -> Result<u32> {
    let tapper = cable.world.workload("tapper").uid(0).gid(0);
    let mut tap = tapper.spawn("/usr/bin/python3".as_ref(), &["-c", TAP, interface])?;
    let mut said = BufReader::new(tap.stdout.take().context("no pipe")?).lines();
    ensure!(said.next().context("it has ended")?? == "listening");
    work()?;
    let seen = said.next().context("it has ended")??.parse()?;
    tap.wait()?;
    Ok(seen)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_lets_the_proxys_packets_pass_is_seen_by_no_tap() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("tap")?;
    let azure = cable.world.azure()?;
    let agent = cable.world.agent().config(FORWARDS).start()?;
    logged(&agent, "frames by netfilter", "stands")?;
    let seen = marked(&cable, "tw-up", || {
        let answer = cable.world.workload("billing").get(TOKEN)?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    })?;
    assert_eq!((seen, azure.received().len()), (0, 1));
    // Nor is it given to what anybody may send: an acknowledgement with nothing in it, by a way where nothing takes it off again.
    for interface in ["lo", "tw-up"] {
        let seen = marked(&cable, interface, || {
            let (_, said) = cable.arrives_by(interface, "bare", IMDS)?;
            ensure!(said == "sent", "{said}");
            Ok(())
        })?;
        assert_eq!(seen, 0, "{interface}");
    }
    // The tap would see it.
    let seen = marked(&cable, "tw-up", || {
        cable.arrives("packet-marked", NEIGHBOUR).map(drop)
    })?;
    assert_eq!(seen, 1);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_nft_the_other_layers_stand_and_it_says_so() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, Tcx);
    let cable = Cable::new("no-nft")?;
    let _azure = cable.world.azure()?;
    cable.world.enter(|| {
        let nft = "/usr/sbin/nft";
        let null = Some("/dev/null");
        mount(null, nft, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("hiding nft")
    })?;
    let agent = cable.world.agent().config(FORWARDS).start()?;
    logged(&agent, "frames by netfilter", "nft can't be run")?;
    logged(&agent, "\"frames\"", "stands")?;
    assert!(!cable.arrives("packet", IMDS)?.0);
    assert!(!cable.arrives("raw-tcp", IMDS)?.0);
    assert_eq!(cable.world.workload("billing").get(TOKEN)?.status, 200);
    logged(&agent, "no guest is served", "nft is not installed")
        .or_else(|_| logged(&agent, "no guest is served", "nft can't be run"))?;
    // What only netfilter sees is not seen: the reason to have it.
    assert!(cable.arrives("packet-bypass", IMDS)?.0);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn raw_sockets_are_refused_where_the_kernel_takes_lsm_programs_and_else_it_says_so() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("lsm")?;
    let azure = cable.world.azure()?;
    assert!(cable.arrives("packet", NEIGHBOUR)?.0);
    let allowed = format!("{}/allowed", cable.world.cgroup_name()?);
    let policy = format!("{FORWARDS}\n[hardening]\nraw_sockets_for = [\"{allowed}\"]");
    let agent = cable.world.agent().config(&policy).start()?;
    let line = agent
        .log()
        .lines()
        .find(|l| l.contains("raw sockets"))
        .map(str::to_owned);
    let line = line.context("nothing is said of raw sockets")?;
    let (arrived, said) = cable.arrives("packet", NEIGHBOUR)?;
    if line.contains("does not stand") {
        assert!(
            line.contains("not permitted") || line.contains("lacks"),
            "{line}"
        );
        assert!(arrived, "{said}");
    } else {
        assert_eq!(said, "errno 1");
    }
    assert_eq!(cable.world.workload("billing").get(TOKEN)?.status, 200);
    assert_eq!(azure.received().len(), 1);
    Ok(())
}

/// By AF_XDP, as root without any other power would.
const XDP: &str = include_str!("xdp.py");

fn by_xdp(cable: &Cable, target: &str) -> Result<(bool, String)> {
    let root = cable.world.workload("attacker").uid(0).gid(0);
    let python = Path::new("/usr/bin/python3");
    cable.comes_out(|mark| root.run(python, &["-c", XDP, target, mark, "tw-up"]))
}

/// The limit that the threat model tells: no hook sees what an XDP socket sends. What can be done is to refuse such sockets.
#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_xdp_socket_sends_beneath_every_hook_and_is_refused_where_lsm_programs_are_taken() -> Result<()>
{
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("xdp")?;
    let _azure = cable.world.azure()?;
    assert_eq!(by_xdp(&cable, IMDS)?, (true, "sent".into()));
    let agent = cable.world.agent().config(FORWARDS).start()?;
    logged(&agent, "frames by netfilter", "stands")?;
    assert!(!cable.arrives("packet-bypass", IMDS)?.0);
    let limit = by_xdp(&cable, IMDS)?;
    assert_eq!(
        limit,
        (true, "sent".into()),
        "it is stopped now: mend the threat model"
    );
    drop(agent);
    let hardened = format!("{FORWARDS}\n[hardening]\nraw_sockets_for = [\"/nobody\"]");
    let agent = cable.world.agent().config(&hardened).start()?;
    let stands = agent
        .log()
        .lines()
        .any(|line| line.contains("raw sockets") && line.contains("stands"));
    let (arrived, said) = by_xdp(&cable, IMDS)?;
    if stands {
        assert_eq!((arrived, said.as_str()), (false, "errno 1"));
    } else {
        logged(&agent, "raw sockets", "does not stand")?;
    }
    assert_eq!(cable.world.workload("billing").get(TOKEN)?.status, 200);
    Ok(())
}
