//! What is around the layers: power, interfaces, addresses, routes, rules, settings.

use crate::Clinic;
use anyhow::{Context, Result};
use imds_guard_tests::require;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_holder_of_cap_net_raw_and_its_sockets_are_found() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-raw").unwrap();
    let _agent = clinic.start().unwrap();
    let kill = |mut child: Child| {
        child.kill()?;
        child.wait()?;
        Ok(())
    };
    let raw = "--inh-caps=+net_raw --ambient-caps=+net_raw --reuid=1001 --regid=2001 --clear-groups --bounding-set=-all,+net_raw";
    let holder = || {
        process(
            &clinic,
            &format!("exec setpriv {raw} -- sh -c 'echo up; exec sleep 60'"),
        )
    };
    clinic.changes("net-raw", "weak", "sleep", holder, kill);
    // The same process without the capability is nobody's business.
    let none = || {
        process(
            &clinic,
            "exec setpriv --reuid=1001 --regid=2001 --clear-groups -- sh -c 'echo up; exec sleep 60'",
        )
    };
    let before = clinic.findings().unwrap();
    let held = none().unwrap();
    assert_eq!(clinic.findings().unwrap(), before);
    kill(held).unwrap();
    // Of root, what counts are the sockets that it has opened.
    for (family, kind) in [
        (AddressFamily::Packet, "packet"),
        (AddressFamily::Inet, "raw"),
    ] {
        let opened = || {
            let icmp = nix::sys::socket::SockProtocol::Icmp;
            let open = || Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, icmp)?);
            clinic.world.enter(open)
        };
        clinic.changes("packet-sockets", "weak", kind, opened, |held| {
            drop(held);
            Ok(())
        });
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_holder_of_cap_net_admin_is_found_where_it_is_not_alone() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-admin").unwrap();
    let _agent = clinic.start().unwrap();
    let kill = |mut child: Child| {
        child.kill()?;
        child.wait()?;
        Ok(())
    };
    let holds = "setpriv --inh-caps=+net_admin --ambient-caps=+net_admin --reuid=1001 --regid=2001 --clear-groups --bounding-set=-all,+net_admin";
    let beside_the_guard = || {
        process(
            &clinic,
            &format!("exec {holds} -- sh -c 'echo up; exec sleep 60'"),
        )
    };
    clinic.changes("net-admin", "weak", "sleep", beside_the_guard, kill);
    // In a namespace of its own it can speak in nobody's name.
    let alone = process(
        &clinic,
        &format!("exec unshare -n {holds} -- sh -c 'echo up; exec sleep 60'"),
    );
    let (_, subjects) = clinic.findings().unwrap()["net-admin"].clone();
    kill(alone.unwrap()).unwrap();
    assert!(
        subjects.iter().all(|s| !s.contains("sleep")),
        "{subjects:?}"
    );
}

/// A process of the world that has said that it stands.
fn process(clinic: &Clinic, line: &str) -> Result<Child> {
    let mut command = Command::new("sh");
    command
        .args(["-ec", line])
        .stdout(Stdio::piped())
        .stdin(Stdio::null());
    let mut child = clinic.world.enter(move || Ok(command.spawn()?))?;
    let out = child.stdout.take().context("no pipe")?;
    let mut said = String::new();
    BufReader::new(out).read_line(&mut said)?;
    anyhow::ensure!(said == "up\n", "{line}: it said {said:?}");
    Ok(child)
}

/// What one line of shell does and another undoes.
#[track_caller]
fn shell(clinic: &Clinic, check: &str, state: &str, about: &str, line: &str, undo: &str) {
    clinic.changes(
        check,
        state,
        about,
        || clinic.shell(line),
        |_| clinic.shell(undo).map(drop),
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn addresses_routes_rules_and_settings_are_found() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-network").unwrap();
    let _agent = clinic.start().unwrap();
    let at = "169.254.169.254";
    shell(
        &clinic,
        "addresses",
        "weak",
        "169.254.169.254 on lo",
        &format!("ip address add {at}/32 dev lo"),
        &format!("ip address del {at}/32 dev lo"),
    );
    shell(
        &clinic,
        "addresses",
        "weak",
        "fd00:ec2::254 on lo",
        "ip -6 address add fd00:ec2::254/128 dev lo",
        "ip -6 address del fd00:ec2::254/128 dev lo",
    );
    shell(
        &clinic,
        "routes",
        "weak",
        "169.254.169.254/32 by lo",
        &format!("ip route add {at}/32 dev lo"),
        &format!("ip route del {at}/32 dev lo"),
    );
    shell(
        &clinic,
        "routes",
        "weak",
        "table 99",
        &format!("ip route add {at}/32 dev lo table 99"),
        "ip route flush table 99",
    );
    shell(
        &clinic,
        "rules",
        "weak",
        "table 99",
        &format!("ip rule add to {at} table 99"),
        &format!("ip rule del to {at} table 99"),
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn rules_and_settings_of_others_are_found() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-settings").unwrap();
    let _agent = clinic.start().unwrap();
    let at = "169.254.169.254";
    shell(
        &clinic,
        "netfilter",
        "weak",
        "dnat to 127.0.0.1",
        &format!(
            "nft add table ip kiam; nft add chain ip kiam out '{{ type nat hook output priority -100; }}'; nft add rule ip kiam out ip daddr {at} dnat to 127.0.0.1"
        ),
        "nft delete table ip kiam",
    );
    shell(
        &clinic,
        "route-localnet",
        "weak",
        "lo",
        "echo 1 > /proc/sys/net/ipv4/conf/lo/route_localnet",
        "echo 0 > /proc/sys/net/ipv4/conf/lo/route_localnet",
    );
    let range = clinic
        .shell("cat /proc/sys/net/ipv4/ip_local_port_range")
        .unwrap();
    let before = clinic.findings().unwrap();
    clinic
        .shell("echo '1024 60999' > /proc/sys/net/ipv4/ip_local_port_range")
        .unwrap();
    assert_eq!(clinic.findings().unwrap()["port-range"].0, "weak");
    clinic
        .shell("echo 8788 > /proc/sys/net/ipv4/ip_local_reserved_ports")
        .unwrap();
    assert_eq!(
        clinic.findings().unwrap(),
        before,
        "reserved, it isn't given out"
    );
    clinic
        .shell(&format!(
            "echo '{}' > /proc/sys/net/ipv4/ip_local_port_range",
            range.trim()
        ))
        .unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn interfaces_that_share_a_wire_are_found_in_every_namespace() {
    require!(Root, Cgroup2, Bpf);
    let clinic = Clinic::new("doctor-macvlan").unwrap();
    let _agent = clinic.start().unwrap();
    // In a namespace of its own without a way out: both ends of the wire are there.
    let wire = "ip link add d0 type veth peer name d1";
    let within = |kind: &str| {
        let link = if kind == "none" {
            "true".into()
        } else {
            format!("ip link add link d0 name m0 type {kind}")
        };
        process(
            &clinic,
            &format!("exec unshare --net sh -ec '{wire}; {link}; echo up; exec sleep 60'"),
        )
    };
    let kill = |mut child: Child| {
        child.kill()?;
        child.wait()?;
        gone(&clinic)
    };
    clinic.changes(
        "macvlan",
        "weak",
        "m0 (macvlan on d0)",
        || within("macvlan"),
        kill,
    );
    clinic.changes(
        "macvlan",
        "open",
        "m0 (macvtap on d0)",
        || within("macvtap"),
        kill,
    );
    let before = clinic.findings().unwrap();
    let held = within("none").unwrap();
    assert_eq!(
        clinic.findings().unwrap(),
        before,
        "a veth pair alone is nothing to tell"
    );
    kill(held).unwrap();
}

/// The kernel frees a network namespace some moments after its last process.
fn gone(clinic: &Clinic) -> Result<()> {
    clinic.shell("sleep 0.2").map(drop)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn guests_that_are_not_served_or_pass_are_found() {
    require!(Root, Cgroup2, Bpf, Nft);
    let clinic = Clinic::new("doctor-guests").unwrap();
    let guest = "[[guest]]\ninterface = \"tw-tap\"\nid = \"build\"\n";
    let policy = format!("{}{guest}", crate::POLICY);
    let agent = clinic.world.agent().config(&policy).start().unwrap();
    let guests = || clinic.findings().unwrap().remove("guests").unwrap();
    let until = |wanted: &str| {
        for _ in 0..100 {
            if guests().0 == wanted {
                return guests();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        guests()
    };
    let (state, subjects) = guests();
    assert_eq!(state, "weak", "it isn't there");
    assert!(
        subjects.iter().any(|s| s.contains("tw-tap")),
        "{subjects:?}"
    );
    clinic
        .shell("ip link add tw-tap type veth peer name tw-end")
        .unwrap();
    let (state, subjects) = until("ok");
    assert_eq!(
        (state.as_str(), subjects),
        ("ok", vec!["build at tw-tap".into()])
    );
    // Nobody puts the rules back while the guard is away.
    agent.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    drop(agent);
    assert_eq!(guests().0, "ok", "what it made stays");
    clinic.shell("nft delete table bridge imds_guard").unwrap();
    assert_eq!(guests().0, "weak");
    clinic.shell("nft delete table inet imds_guard").unwrap();
    assert_eq!(guests().0, "open");
}
