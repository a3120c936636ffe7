//! The guard as a process: a reload that fails keeps the last good policy, either process may die, and what it leaves
//! protects. Each refusal beside the same caller's success.

mod exclusive;
mod lacking;
mod revoke;

use imds_guard_tests::{World, patience, require};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

fn policy(uid: u32) -> String {
    format!(
        r#"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.billing]
cloud = "azure"
source = "mint"
client_id = "11111111-2222-3333-4444-555555555555"
subject = "spiffe://{{trust_domain}}/host/{{host}}/workload/{{workload}}"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:{uid}"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "billing"
"#
    )
}

fn status(world: &World) -> Option<u16> {
    let billing = world.workload("billing").uid(1001).gid(2002);
    billing.get(TOKEN).ok().map(|answer| answer.status)
}

#[track_caller]
fn soon(world: &World, wanted: Option<u16>) {
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    let mut got = status(world);
    while got != wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        got = status(world);
    }
    assert_eq!(got, wanted);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_bad_reload_keeps_the_last_good_policy_and_a_good_one_is_served_at_once() {
    require!(Root, Cgroup2);
    let world = World::new("reload").unwrap();
    let agent = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
    let file = world.directory().join("etc/imds-guard.toml");
    std::fs::write(&file, "nonsense = [").unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    let deadline = Instant::now() + patience(Duration::from_secs(5));
    while !agent.log().contains("stays in force") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(agent.log().contains("stays in force"), "{}", agent.log());
    assert_eq!(status(&world), Some(200));
    std::fs::write(&file, policy(1003)).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    soon(&world, Some(403));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_killed_proxy_is_replaced_and_a_killed_guard_leaves_refusal() {
    require!(Root, Cgroup2);
    let world = World::new("deaths").unwrap();
    let agent = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
    let proxy = agent.children()[0];
    let kill = |pid: u32| {
        nix::sys::signal::kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    };
    kill(proxy);
    soon(&world, Some(200));
    assert_ne!(agent.children()[0], proxy);
    let orphan = agent.children()[0];
    kill(agent.pid());
    soon(&world, None);
    assert!(!std::path::Path::new(&format!("/proc/{orphan}/exe")).exists());
    drop(agent);
    let _again = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
}
