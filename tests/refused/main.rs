//! A kernel that lacks what interception rests on: the start is refused, the feature is named, and nothing stays behind. Runs on
//! such a kernel alone (`cargo xtask test vm`); its twin is every other suite on the kernels beside it.

use imds_guard_tests::{AZURE_IMDS, World, require};
use std::net::TcpListener;
use std::time::Duration;

const POLICY: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"
[endpoints]
azure-imds = "enforce"
"#;

#[test]
#[ignore = "an old kernel: cargo xtask test vm"]
fn an_old_kernel_is_refused_with_the_missing_feature_named() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("refused").unwrap();
    let mut agent = world.agent().config(POLICY).spawn().unwrap();
    let ended = agent.wait_end(Duration::from_secs(60)).unwrap();
    let said = agent.log();
    assert_eq!(ended.code(), Some(3), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    // The first that it meets: 5.14 has it, bpf_set_retval came with 5.18.
    assert!(said.contains("lacks SO_NETNS_COOKIE: Linux 6.1"), "{said}");
    let bpf = world.directory().join("bpf");
    let pins = world.enter(|| Ok(std::fs::read_dir(&bpf)?.count()));
    assert_eq!(pins.unwrap(), 0, "something is pinned");
    // Who listens at the address is reached, as if there were no agent.
    let real = world.enter(|| Ok(TcpListener::bind(AZURE_IMDS)?)).unwrap();
    real.set_nonblocking(true).unwrap();
    let _connected = world.workload("billing").connect(AZURE_IMDS).unwrap();
    assert!(real.accept().is_ok(), "steered away");
}
