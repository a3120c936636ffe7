//! Windows of its life: connections older than the guard, a guard that is stopped, a policy that takes away, a bad start, a
//! flushed packet filter, strangers at the seam. None of them opens anything, and each closes again.

use anyhow::{Result, ensure};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, UPSTREAM_TOKEN, World, patience, require};
use nix::sys::signal::Signal;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use super::egress::{Cable, FORWARDS, IMDS, NEIGHBOUR};
use super::{INSTANCE, POLICY, TOKEN, agent, get, python};

/// A service beside the metadata service, at another port of its address: says `echo` to whatever comes.
fn beside(world: &World) -> Result<()> {
    let listener = world.enter_cloud(|| Ok(TcpListener::bind("169.254.169.254:8080")?))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            while stream.read(&mut [0; 512]).is_ok_and(|read| read > 0) {
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\necho");
            }
        }
    });
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_connection_that_is_older_than_the_guard_gets_nothing_more() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("older")?;
    let azure = world.azure()?;
    beside(&world)?;
    let nobody = world.workload("nobody").uid(1001);
    let mut older = nobody.connect(AZURE_IMDS)?;
    let mut other = nobody.connect("169.254.169.254:8080")?;
    older.send(&get(TOKEN))?;
    assert!(older.response()?.text().contains(UPSTREAM_TOKEN));
    let _agent = world.agent().config(FORWARDS).start()?;
    older.send(&get(TOKEN))?;
    // What lives beside the endpoint goes on, over the same cable.
    other.send(&get(TOKEN))?;
    assert_eq!(other.response()?.text(), "echo");
    assert_eq!(nobody.get(TOKEN)?.status, 403);
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    std::thread::sleep(Duration::from_millis(400));
    let received = azure.received();
    assert_eq!(
        received.len(),
        2,
        "before, and the granted one's: {received:?}"
    );
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_guard_that_is_stopped_lets_nobody_new_in_and_goes_on_where_it_was() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("sigstop")?;
    let azure = world.azure()?;
    let agent = agent(&world)?;
    let billing = world.workload("billing");
    let mut known = billing.connect(AZURE_IMDS)?;
    known.send(&get(INSTANCE))?;
    assert_eq!(known.response()?.status, 200);
    agent.signal(Signal::SIGSTOP)?;
    let late = billing.get(TOKEN)?;
    assert!(late.status >= 500, "{} {}", late.status, late.text());
    assert!(!late.text().contains("access_token"));
    agent.signal(Signal::SIGCONT)?;
    known.send(&get(INSTANCE))?;
    assert_eq!(known.response()?.status, 200);
    assert_eq!(billing.get(TOKEN)?.status, 200);
    assert_eq!(azure.connections(), 0);
    Ok(())
}

fn reload(world: &World, agent: &AgentProcess, config: &str, epoch: u32) -> Result<()> {
    std::fs::write(world.directory().join("etc/imds-guard.toml"), config)?;
    agent.signal(Signal::SIGHUP)?;
    let told = format!("serving by a new policy epoch={epoch}\n");
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while !agent.log().contains(&told) {
        ensure!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_grant_that_is_taken_away_is_gone_from_kept_connections_and_from_what_was_fetched() -> Result<()>
{
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("revoked")?;
    let agent = agent(&world)?;
    let billing = world.workload("billing");
    let mut kept = billing.connect(AZURE_IMDS)?;
    let mut status = |target: &str| -> Result<u16> {
        kept.send(&get(target))?;
        Ok(kept.response()?.status)
    };
    assert_eq!(status(TOKEN)?, 200);
    assert_eq!(status(TOKEN)?, 200);
    let without = POLICY.replace("https://vault.azure.net", "https://elsewhere.example");
    reload(&world, &agent, &without, 2)?;
    assert_eq!(status(TOKEN)?, 403);
    assert_eq!(status(INSTANCE)?, 200, "what it still has");
    assert_eq!(billing.get(TOKEN)?.status, 403);
    reload(&world, &agent, POLICY, 3)?;
    assert_eq!(status(TOKEN)?, 200);
    let lines = agent.audit().records()?;
    let signed = lines.iter().filter(|line| line["event"] == "signed");
    assert_eq!(
        signed.count(),
        2,
        "what was fetched before is not given again"
    );
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_with_a_bad_policy_leaves_the_address_shut() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("bad-start")?;
    let azure = world.azure()?;
    let billing = world.workload("billing");
    drop(agent(&world)?);
    let refused = |when: &str| {
        let said = billing.get(TOKEN).map(|answer| answer.status);
        let error = said.expect_err(when);
        assert!(error.to_string().contains("refused"), "{when}: {error}");
    };
    refused("while the guard is away");
    let mut bad = world.agent().config("nonsense = [").spawn()?;
    let ended = bad.wait_end(patience(Duration::from_secs(10)))?;
    assert_eq!(ended.code(), Some(2), "{}", bad.log());
    refused("after a bad start");
    assert_eq!(azure.connections(), 0);
    let _agent = agent(&world)?;
    assert_eq!(billing.get(TOKEN)?.status, 200);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_flushes_the_packet_filter_opens_nothing_to_processes() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, Nft);
    let cable = Cable::new("flushed")?;
    let world = &cable.world;
    let azure = world.azure()?;
    let _agent = world.agent().config(FORWARDS).start()?;
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    world.enter(|| {
        let flushed = Command::new("nft").args(["flush", "ruleset"]).status()?;
        ensure!(flushed.success(), "nft");
        Ok(())
    })?;
    assert_eq!(world.workload("nobody").uid(1001).get(TOKEN)?.status, 403);
    for way in ["udp", "raw-tcp", "header", "packet"] {
        let (arrived, said) = cable.arrives(way, IMDS)?;
        assert!(!arrived, "{way}: {said}");
        // (UDP to the neighbour goes to whoever listens there.)
        assert!(cable.arrives(way, NEIGHBOUR)?.0, "{way}");
    }
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    assert_eq!(azure.received().len(), 2);
    Ok(())
}

/// Knocks at the guard's seam as whom; what becomes of it.
const KNOCK: &str = r#"
become(int(sys.argv[2]), int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.settimeout(2)
try:
    s.connect(sys.argv[1])
    welcome = s.recv(65536)
    say("welcome" if welcome else "closed")
except ConnectionResetError: say("closed")
except OSError as error: say("errno", error.errno)
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn at_the_seam_nobody_is_heard_but_the_proxys_user() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("knock")?;
    let agent = world
        .agent()
        .config(POLICY)
        .argument("--proxy=socket")
        .start()?;
    let seam = agent
        .run_directory()
        .join("seam.sock")
        .display()
        .to_string();
    let root = world.workload("stranger").uid(0).gid(0);
    let knock = |uid: &str| python(&root, KNOCK, &[&seam, uid]);
    assert_eq!(knock("1001")?, "errno 13\n");
    // Root reaches it, and is not the proxy.
    assert_eq!(knock("0")?, "closed\n");
    assert_eq!(knock("65534")?, "welcome\n");
    assert!(agent.log().contains("uid=0"), "{}", agent.log());
    Ok(())
}
