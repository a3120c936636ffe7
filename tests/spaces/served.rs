//! Who is served, and as whom.

use anyhow::{Context as _, Result};
use imds_guard_tests::{AZURE_IMDS, World, binary, require};
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;

use super::{PORT, get, request, started};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_caller_in_its_own_namespace_is_served_as_itself_and_its_neighbour_is_not() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("own-netns")?;
    let agent = started(&world)?;
    let billing = world.workload("billing").in_own_netns();
    assert_eq!(get(&billing)?.status, 200);
    // Its address is the same, its ports may be: who it is comes from the kernel.
    let neighbour = world.workload("neighbour").uid(1001).in_own_netns();
    assert_eq!(get(&neighbour)?.status, 403);
    let home = world.workload("billing");
    assert_eq!(get(&home)?.status, 200);
    let lines = agent.audit().wait(4)?;
    let netns = |uid: u64| {
        let of = lines
            .iter()
            .find(|l| l["caller"]["uid"] == uid && l["event"] == "exchange");
        of.and_then(|line| line["caller"]["netns"].as_u64())
    };
    assert!(
        netns(1000).is_some() && netns(1000) != netns(1001),
        "{lines:?}"
    );
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn one_namespace_with_the_host_and_one_without() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("net-host")?;
    let _agent = started(&world)?;
    let host = world.workload("host").uid(1003);
    assert_eq!(get(&host)?.status, 200, "net:host is present");
    assert_eq!(get(&host.in_own_netns())?.status, 403, "and here it is not");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn fake_root_of_a_user_namespace_is_its_outer_uid() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("fake-root")?;
    let agent = started(&world)?;
    let probe = world.show(&binary("probe")?, "probe")?;
    let probe = probe.to_str().context("path")?;
    let fake = |uid: u32, cgroup: &str| -> Result<u16> {
        let who = world.workload("fake").uid(uid).in_cgroup(cgroup);
        let unshare = Path::new("/usr/bin/unshare");
        let mut process = who.spawn(unshare, &["-Urn", probe, "--again=2000", AZURE_IMDS])?;
        let mut input = process.stdin.take().context("no pipe")?;
        std::io::Write::write_all(&mut input, request().as_bytes())?;
        let mut output = BufReader::new(process.stdout.take().context("no pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        process.kill()?;
        process.wait()?;
        let status = line.split(' ').nth(1).with_context(|| line.clone())?;
        Ok(status.parse()?)
    };
    assert_eq!(fake(1000, "a/deeply/nested/cgroup")?, 200);
    assert_eq!(fake(1001, "fake.service")?, 403);
    let lines = agent.audit().wait(3)?;
    let exchanges: Vec<_> = lines.iter().filter(|l| l["event"] == "exchange").collect();
    assert_eq!(exchanges.len(), 2);
    assert!(
        exchanges.iter().all(|l| l["caller"]["uid"] != 0),
        "{lines:?}"
    );
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn whoever_takes_the_port_in_its_namespace_is_refused_until_it_gives_it_back() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("port-taken")?;
    let space = world.unconnected()?;
    let take = || Ok(TcpListener::bind(("127.0.0.1", PORT))?);
    let taken = world.enter_space(&space, take)?;
    let agent = started(&world)?;
    let who = world.workload("billing").in_space(&space);
    for _ in 0..3 {
        let refused = get(&who).unwrap_err();
        assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    }
    assert_eq!(
        agent.log().matches("is taken").count(),
        1,
        "{}",
        agent.log()
    );
    // Its neighbours are not concerned.
    assert_eq!(get(&world.workload("billing").in_own_netns())?.status, 200);
    drop(taken);
    assert_eq!(get(&who)?.status, 200);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_namespace_without_ipv6_is_served_over_ipv4() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("no-ipv6")?;
    let space = world.unconnected()?;
    world.enter_space(&space, || {
        Ok(std::fs::write(
            "/proc/sys/net/ipv6/conf/all/disable_ipv6",
            "1",
        )?)
    })?;
    let _agent = started(&world)?;
    assert_eq!(
        get(&world.workload("billing").in_space(&space))?.status,
        200
    );
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_socket_from_another_namespace_is_its_own_namespaces_and_its_callers() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("borrowed")?;
    let agent = started(&world)?;
    let space = world.unconnected()?;
    // Made there, carried by a process that has come back: python's socket survives setns.
    let script = r#"
import ctypes, os, socket, sys, time
def enter(fd):
    if ctypes.CDLL(None).setns(fd, 0x40000000) != 0: sys.exit("setns")
home = os.open("/proc/self/ns/net", os.O_RDONLY)
enter(int(sys.argv[1]))
s = socket.socket()
enter(home)
os.setgid(2000); os.setuid(int(sys.argv[2]))
for attempt in range(200):
    try:
        s.connect(("169.254.169.254", 80)); break
    except ConnectionRefusedError:
        time.sleep(0.01)
s.sendall(sys.argv[3].encode().decode("unicode_escape").encode())
print(s.recv(100).split(b" ")[1].decode(), flush=True)
"#;
    // Somebody lives there, so that there is a listener.
    let _lives = world
        .workload("tenant")
        .in_space(&space)
        .connect_with(AZURE_IMDS, &["--again=2000"])?;
    let status = |uid: u32| -> Result<String> {
        let request = request().replace('\r', "\\r").replace('\n', "\\n");
        let who = world.workload("borrower").uid(0).gid(0);
        let output = who.run(
            Path::new("/bin/sh"),
            &[
                "-c",
                "exec 9<\"$0\" && exec python3 -c \"$1\" 9 \"$2\" \"$3\"",
                &space.path(),
                script,
                &uid.to_string(),
                &request,
            ],
        )?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    assert_eq!(status(1000)?, "200");
    assert_eq!(status(1001)?, "403");
    drop(agent);
    Ok(())
}
