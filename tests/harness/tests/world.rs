//! The harness itself: what it promises to the suites, seen from inside. A harness that lies makes every other test worthless.

use imds_guard_tests::{AZURE_IMDS, AZURE_IMDS_MAPPED, FakeAzure, UPSTREAM_TOKEN, World, require};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_workload_reaches_the_service_of_its_own_world() {
    require!(Root, Cgroup2);
    let world = World::new("reach").unwrap();
    let azure: FakeAzure = world.azure().unwrap();
    let answer = world
        .workload("web")
        .uid(1001)
        .gid(2002)
        .get(TOKEN)
        .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json().unwrap()["access_token"], UPSTREAM_TOKEN);
    assert_eq!(azure.received().len(), 1);
    assert!(
        azure.received()[0]
            .headers
            .iter()
            .any(|h| h == "Metadata: true")
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_mapped_address_is_the_same_service() {
    require!(Root, Cgroup2);
    let world = World::new("mapped").unwrap();
    let _azure = world.azure().unwrap();
    let mut caller = world.workload("web").connect(AZURE_IMDS_MAPPED).unwrap();
    caller
        .send(b"GET /metadata/instance HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(
        caller.response().unwrap().status,
        400,
        "without Metadata: true"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_workload_is_who_it_is_told_to_be() {
    require!(Root, Cgroup2);
    let world = World::new("identity").unwrap();
    let web = world
        .workload("web")
        .uid(1001)
        .gid(2002)
        .groups(&[3003, 3004])
        .in_cgroup("system.slice/web.service");
    let output = web
        .run(
            Path::new("/bin/sh"),
            &[
                "-c",
                "id -u; id -g; id -G; cat /proc/self/cgroup; grep CapEff /proc/self/status",
            ],
        )
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1001"));
    assert_eq!(lines.next(), Some("2002"));
    assert_eq!(lines.next(), Some("2002 3003 3004"));
    assert!(
        text.lines()
            .any(|l| l.starts_with("0::") && l.ends_with("/system.slice/web.service")),
        "{text}"
    );
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nothing_leads_out_and_the_test_itself_stays_outside() {
    require!(Root, Cgroup2);
    let world = World::new("sealed").unwrap();
    let interfaces = world
        .enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))
        .unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 1, "{interfaces}");
    let elsewhere = world
        .enter(|| {
            Ok(
                TcpStream::connect_timeout(&"192.0.2.1:80".parse()?, Duration::from_secs(1))
                    .is_err(),
            )
        })
        .unwrap();
    assert!(elsewhere, "an address of the internet was reached");
    let refused = world.workload("web").connect(AZURE_IMDS).unwrap_err();
    assert!(
        refused.to_string().contains("refused"),
        "no server was started: {refused:#}"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_world_leaves_nothing_behind() {
    require!(Root, Cgroup2);
    let world = World::new("traces").unwrap();
    let (cgroup, directory) = (
        world.cgroup().to_path_buf(),
        world.directory().to_path_buf(),
    );
    let mut sleeper = world
        .workload("sleeper")
        .spawn(Path::new("/bin/sleep"), &["600"])
        .unwrap();
    assert!(cgroup.join("sleeper.service").is_dir());
    // Reaped by us, as nobody else may: until then the dead keep the cgroup.
    let reaper = std::thread::spawn(move || sleeper.wait());
    drop(world);
    assert!(
        !reaper.join().unwrap().unwrap().success(),
        "killed with its world"
    );
    assert!(!cgroup.exists() && !directory.exists());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_cloud_a_cable_away_sees_who_asks_and_one_hop_keeps_containers_out() {
    require!(Root, Cgroup2);
    let world = World::with_cloud("cloud").unwrap();
    let azure = world.azure().unwrap();
    let (container, none) = (world.container().unwrap(), world.unconnected().unwrap());
    assert_eq!(world.workload("host").get(TOKEN).unwrap().status, 200);
    let pod = world.workload("pod").in_space(&container);
    assert_eq!(pod.get(TOKEN).unwrap().status, 200);
    let from: Vec<String> = azure
        .received()
        .iter()
        .map(|received| received.from.to_string())
        .collect();
    assert_eq!(from, ["10.200.0.1", "10.201.0.2"]);
    let cut_off = world.workload("none").in_space(&none).get(TOKEN);
    assert!(cut_off.unwrap_err().to_string().contains("unreachable"));
    azure.hop_limit(1).unwrap();
    assert_eq!(world.workload("host").get(TOKEN).unwrap().status, 200);
    let late = pod.connect_with(AZURE_IMDS, &["--within=700"]);
    assert!(late.unwrap_err().to_string().contains("timed out"));
}
