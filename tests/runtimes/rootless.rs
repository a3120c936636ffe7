//! Podman as an ordinary user: its containers are told apart by their cgroups and by the users that they really are, and the
//! process that carries a container's packets (slirp4netns, pasta) is its user, and not the container.

use crate::asker::{attempt_at, enforced, insisting};
use crate::installed::{Grant, Installed, policy, run};
use crate::podman::{Container, Engine, SUBORDINATE, UID};
use anyhow::{Context, Result, bail, ensure};
use imds_guard_tests::{FakeAzure, Machine, Outcome, require};
use serde_json::Value;
use std::process::Command;

/// How a container's packets get out: podman's `--network`, and the process of that name. Podman takes pasta from 4.4 on, which
/// is after what Debian 12 has.
fn networks() -> Result<&'static [&'static str]> {
    let release = std::fs::read_to_string("/etc/os-release")?;
    let both = &["slirp4netns", "pasta"];
    Ok(match release.contains("VERSION_CODENAME=bookworm") {
        true => &both[..1],
        false => both,
    })
}

fn uid(id: u32) -> String {
    format!("unix:uid:{id}")
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn a_rootless_container_is_its_cgroup_and_its_outer_user() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Rootless.prepare()?;
    // Root in there, and uid 1000 in there: the user outside, and 100999.
    let networks = networks()?.iter();
    let mut networks = networks.map(|name| format!("--network={name}")).cycle();
    let mut network = move || networks.next().unwrap_or_default();
    let root = engine.start("fake-root", &[&network()])?;
    let other = engine.start("inner-user", &[&network(), "--user=1000"])?;
    ensure!(
        root.asker.tell("busybox id -u")?.trim() == "0",
        "not root in there"
    );
    for container in [&root, &other] {
        let cgroup = container.cgroup()?;
        let below = "/user.slice/user-1000.slice/user@1000.service/";
        ensure!(cgroup.starts_with(below), "{cgroup}");
        container.asker.reaches(&azure)?;
    }
    let selectors = [root.selector()?, other.selector()?];
    let inner = uid(SUBORDINATE + 999);
    // Rules, and who of (root, other) gets the token by them.
    let rules: [(Grant<'_>, [bool; 2]); 6] = [
        (&[&selectors[0]], [true, false]),
        (&[&selectors[1]], [false, true]),
        (&[&uid(UID)], [true, false]),
        (&[&inner], [false, true]),
        // The root that it is in there, it is not.
        (&[&uid(0)], [false, false]),
        (&[&selectors[0], &uid(UID)], [true, false]),
    ];
    let mut agent = Installed::new(&machine, &policy("enforce", &[]))?;
    for (rule, wanted) in rules {
        agent.change(&policy("enforce", &[rule]))?;
        for (container, served) in [&root, &other].into_iter().zip(wanted) {
            let (outcome, wanted) = (container.asker.attempt(&azure)?, enforced(served));
            ensure!(
                outcome == wanted,
                "{rule:?}: {outcome:?}, not {wanted:?}\n{}",
                agent.said()
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn what_carries_a_containers_packets_is_its_user_and_not_the_container() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Rootless.prepare()?;
    for (number, network) in networks()?.iter().enumerate() {
        let container = engine.start(
            &format!("carried-by-{network}"),
            &[&format!("--network={network}")],
        )?;
        let hidden = Hidden::behind(&container, number)?;
        carried(&machine, &azure, &container, &hidden).with_context(|| (*network).to_owned())?;
    }
    Ok(())
}

/// The container itself and what it sends through its network's process, by rules for one, the other, both, neither.
fn carried(
    machine: &Machine,
    azure: &FakeAzure,
    container: &Container,
    hidden: &Hidden,
) -> Result<()> {
    // It is a way: without us the service answers whoever takes it.
    let outcome = hidden.attempt(azure)?;
    ensure!(outcome.from() == Some(Machine::ADDRESS), "{outcome:?}");
    let (own, user, another) = (container.selector()?, uid(UID), uid(UID + 1));
    let rules: [(Grant<'_>, [bool; 2]); 4] = [
        (&[&own], [true, false]),
        (&[&own, &user], [true, false]),
        (&[&another], [false, false]),
        // What the user may have, its processes may have.
        (&[&user], [true, true]),
    ];
    let mut agent = Installed::new(machine, &policy("enforce", &[]))?;
    for (rule, wanted) in rules {
        agent.change(&policy("enforce", &[rule]))?;
        let before = agent.audit.records()?.len();
        let outcomes = [container.asker.attempt(azure)?, hidden.attempt(azure)?];
        ensure!(
            outcomes == wanted.map(enforced),
            "{rule:?}: {outcomes:?}\n{}",
            agent.said()
        );
        let late = |record: &Value| record["status"] == 504;
        let so_far = agent.audit.wait(before + 2)?.split_off(before);
        let again = so_far.iter().filter(|record| late(record)).count();
        let mut records = agent.audit.wait(before + 2 + again)?.split_off(before);
        records.retain(|record| !late(record));
        told_apart(&records)?;
    }
    Ok(())
}

/// Both records name the user; only the container's its cgroup.
fn told_apart(records: &[Value]) -> Result<()> {
    let users = records
        .iter()
        .map(|record| record["caller"]["uid"].as_u64());
    ensure!(
        users.into_iter().all(|uid| uid == Some(UID.into())),
        "{records:?}"
    );
    let [container, carrier] = records else {
        bail!("{records:?}");
    };
    let cgroup = |record: &Value| record["caller"]["cgroup_id"].as_u64();
    ensure!(cgroup(container) != cgroup(carrier), "one: {records:?}");
    Ok(())
}

/// Somebody behind a container: a network namespace that the container routes and whose connections it sends on to the
/// metadata address. No `connect()` names that address but the one of the process that carries the container's packets.
struct Hidden {
    name: String,
}

impl Hidden {
    fn behind(container: &Container, number: usize) -> Result<Self> {
        let name = format!("hidden-{number}");
        run("ip", &["netns", "add", &name])?;
        let pid = container.pid.to_string();
        let inside = |line: &str| run("nsenter", &["-n", "-t", &pid, "sh", "-ec", line]);
        inside(&format!(
            "ip link add tw-in type veth peer name tw-out netns /run/netns/{name}
             ip address add 10.99.0.1/24 dev tw-in
             ip link set tw-in up
             echo 1 >/proc/sys/net/ipv4/ip_forward
             nft -f - <<END
             table ip hidden {{
               chain before {{ type nat hook prerouting priority dstnat; iifname tw-in ip daddr 10.66.6.6 tcp dport 80 dnat to 169.254.169.254; }}
               chain after {{ type nat hook postrouting priority srcnat; oifname != {{ tw-in, lo }} masquerade; }}
             }}
END"
        ))?;
        let there = |line: &str| run("ip", &["netns", "exec", &name, "sh", "-ec", line]);
        there(
            "ip link set lo up; ip address add 10.99.0.2/24 dev tw-out; ip link set tw-out up
             ip route add default via 10.99.0.1",
        )?;
        Ok(Self { name })
    }

    fn attempt(&self, azure: &FakeAzure) -> Result<Outcome> {
        let line = format!(
            "PATH=/run/payload/bin:$PATH; {}",
            attempt_at("10.66.6.6:80")
        );
        insisting(azure, || {
            let output = Command::new("ip")
                .args(["netns", "exec", &self.name, "sh", "-c", &line])
                .output()?;
            let said = [output.stdout, output.stderr].concat();
            Ok(String::from_utf8_lossy(&said).into_owned())
        })
    }
}
