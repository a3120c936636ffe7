//! The kinds of callers. Each is stopped by something, or relies on something, that an interceptor could undo.

use crate::filter::{Filter, Passes};
use crate::table::{HOST, Subject, walk};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::{Fate, Space, World, require};
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use Fate::{Bound, Filtered, FilteredOut, Steered};

/// nft in the calling thread's namespace.
fn nft(rules: &str) -> Result<()> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("nft (nftables) is needed: cargo xtask setup")?;
    nft.stdin
        .take()
        .context("no stdin")?
        .write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "nft refused: {rules}");
    Ok(())
}

/// `rule` on what goes out of the calling thread's namespace.
fn output(rule: &str) -> Result<()> {
    nft(&format!(
        "table inet stop {{ chain out {{ type filter hook output priority 0; {rule}\n}}\n}}\n"
    ))
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .context("ip (iproute2)")?;
    ensure!(status.success(), "ip {arguments}");
    Ok(())
}

fn address(of: &Space) -> Option<IpAddr> {
    of.address().map(IpAddr::V4)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_process_of_the_host_and_a_container() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("plain")?;
    let azure = world.azure()?;
    let pod = world.container()?;
    let subjects = [
        (Subject::new(world.workload("host")), Some(HOST), Steered),
        (
            Subject::new(world.workload("pod").in_space(&pod)),
            address(&pod),
            Steered,
        ),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_network_none() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("none")?;
    let azure = world.azure()?;
    let none = world.unconnected()?;
    let subjects = [
        (
            Subject::new(world.workload("none").in_space(&none)),
            None,
            Steered,
        ),
        (Subject::new(world.workload("host")), Some(HOST), Steered),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_a_hop_limit() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("hops")?;
    let azure = world.azure()?;
    azure.hop_limit(1)?;
    let pod = world.container()?;
    let subjects = [
        (
            Subject::new(world.workload("pod").in_space(&pod)),
            None,
            Steered,
        ),
        (Subject::new(world.workload("host")), Some(HOST), Steered),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_ip_address_deny() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("deny")?;
    let azure = world.azure()?;
    let denied = world.workload("denied");
    let _filter = Filter::on(&denied.cgroup()?, Passes::AllBut)?;
    let subjects = [
        (Subject::new(denied), None, Filtered),
        (Subject::new(world.workload("host")), Some(HOST), Steered),
    ];
    walk(&world, &azure, &subjects)
}

/// What filters its cgroup forbids it the loopback as well, where our listener is: it isn't served, and goes on as before in
/// audit.
#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn relying_on_ip_address_allow() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("allow")?;
    let azure = world.azure()?;
    let only = world.workload("only");
    let counted = world.workload("counted");
    let _filters = [
        Filter::on(&only.cgroup()?, Passes::Only)?,
        Filter::on(&counted.cgroup()?, Passes::Everything)?,
    ];
    let subjects = [
        (Subject::new(only), Some(HOST), FilteredOut),
        (Subject::new(counted), Some(HOST), Filtered),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_a_firewall_in_its_namespace() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("firewall")?;
    let azure = world.azure()?;
    let (pod, other) = (world.container()?, world.container()?);
    world.enter_space(&pod, || output("ip daddr 169.254.169.254 drop"))?;
    let subjects = [
        (
            Subject::new(world.workload("pod").in_space(&pod)),
            None,
            Steered,
        ),
        (
            Subject::new(world.workload("other").in_space(&other)),
            address(&other),
            Steered,
        ),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_a_rule_about_users_and_groups() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("owner")?;
    let azure = world.azure()?;
    world.enter(|| {
        output("ip daddr 169.254.169.254 meta skuid 1001 drop; ip daddr 169.254.169.254 meta skgid 3001 reject")
    })?;
    let subjects = [
        (
            Subject::new(world.workload("user").uid(1001)),
            None,
            Steered,
        ),
        (
            Subject::new(world.workload("group").gid(3001)),
            None,
            Steered,
        ),
        (
            Subject::new(world.workload("host").uid(1000)),
            Some(HOST),
            Steered,
        ),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn stopped_by_routes() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("routes")?;
    let azure = world.azure()?;
    let (black, un) = (world.container()?, world.container()?);
    world.enter_space(&black, || ip("route add blackhole 169.254.169.254"))?;
    world.enter_space(&un, || ip("route add unreachable 169.254.169.254"))?;
    world.enter(|| ip("rule add uidrange 1001-1001 to 169.254.169.254 unreachable"))?;
    let subjects = [
        (
            Subject::new(world.workload("black").in_space(&black)),
            None,
            Steered,
        ),
        (
            Subject::new(world.workload("un").in_space(&un)),
            None,
            Steered,
        ),
        (
            Subject::new(world.workload("user").uid(1001)),
            None,
            Steered,
        ),
        (Subject::new(world.workload("host")), Some(HOST), Steered),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn let_through_by_its_mark_or_stopped_without() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("mark")?;
    let azure = world.azure()?;
    let pod = world.container()?;
    world.enter_space(&pod, || {
        output("ip daddr 169.254.169.254 meta mark != 7 drop")
    })?;
    let root = || world.workload("pod").uid(0).in_space(&pod);
    let subjects = [
        (Subject::with(root(), "--mark=7"), address(&pod), Steered),
        (Subject::new(root()), None, Steered),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn bound_to_a_device_or_an_address_on_the_host() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("bound")?;
    let azure = world.azure()?;
    world.enter(|| ip("address add 10.200.0.77/24 dev tw-up"))?;
    let second: IpAddr = [10, 200, 0, 77].into();
    let user = || world.workload("user");
    let root = || world.workload("root").uid(0);
    let subjects = [
        // The kernel lets it bind its socket once, also by our hand.
        (Subject::with(user(), "--device=tw-up"), Some(HOST), Bound),
        (Subject::with(root(), "--device=tw-up"), Some(HOST), Steered),
        (Subject::with(root(), "--device=lo"), None, Steered),
        (
            Subject::with(user(), "--source=10.200.0.77"),
            Some(second),
            Steered,
        ),
    ];
    walk(&world, &azure, &subjects)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn bound_to_a_device_or_an_address_in_a_container() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("device")?;
    let azure = world.azure()?;
    let pod = world.container()?;
    // Another way to the same place, that one takes by its own address alone.
    world.enter_space(&pod, || ip("address add 10.201.0.77/24 dev tw-eth"))?;
    let second: IpAddr = [10, 201, 0, 77].into();
    let user = || world.workload("user").in_space(&pod);
    let root = || world.workload("root").uid(0).in_space(&pod);
    let subjects = [
        // The kernel lets it bind its socket once, also by our hand.
        (
            Subject::with(user(), "--device=tw-eth"),
            address(&pod),
            Bound,
        ),
        (
            Subject::with(root(), "--device=tw-eth"),
            address(&pod),
            Steered,
        ),
        (Subject::with(root(), "--device=lo"), None, Steered),
        (
            Subject::with(user(), "--source=10.201.0.77"),
            Some(second),
            Steered,
        ),
    ];
    walk(&world, &azure, &subjects)
}
