//! No path behind the hook: each way to send something to a metadata address without `connect()` arrives while nobody guards
//! and doesn't afterwards; the same way to another address arrives all the time.

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{Sniffer, Workload, World, kernel_is_at_least, patience, require};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const ATTACKER: &str = include_str!("egress.py");
pub(crate) const IMDS: &str = "169.254.169.254";
pub(crate) const IMDS_V6: &str = "fd00:ec2::254";
/// The cloud's end of the cable: a neighbour like any other.
pub(crate) const NEIGHBOUR: &str = "10.200.0.2";
/// How long something may be under way.
const PATIENCE: Duration = Duration::from_millis(400);

pub(crate) const FORWARDS: &str = r#"
    [endpoints]
    aws-imds = "enforce"
    [identity.billing]
    cloud = "azure"
    source = "forward"
    client_id = "5f3a9f5e-1111-4222-8333-944455556666"
    [[workload]]
    name = "billing-api"
    selectors = ["unix:uid:1000"]
    [[workload.allow]]
    token = { cloud = "azure", resource = ["https://vault.azure.net"] }
    identity = "billing"
"#;

/// A world with a cable to the cloud, and somebody who sees what comes out at its end.
pub(crate) struct Cable {
    pub(crate) world: World,
    pub(crate) sniffer: Sniffer,
    sent: std::cell::Cell<u32>,
}

impl Cable {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let world = World::with_cloud(name)?;
        world.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
            ip("-6 address add fd00:ec2::1/128 dev tw-up nodad")?;
            ip("-6 route add fd00:ec2::254/128 dev tw-up")?;
            ip("-6 neighbour add fd00:ec2::254 lladdr 02:00:00:00:00:02 dev tw-up")
        })?;
        let sniffer = world.enter_cloud(Sniffer::open)?;
        Ok(Self {
            world,
            sniffer,
            sent: 0.into(),
        })
    }

    /// Whether what root sends by `way` to `target` comes out at the cloud's end, and what the sender was told.
    pub(crate) fn arrives(&self, way: &str, target: &str) -> Result<(bool, String)> {
        self.arrives_by("tw-up", way, target)
    }

    /// The same for what leaves by that interface.
    pub(crate) fn arrives_by(
        &self,
        interface: &str,
        way: &str,
        target: &str,
    ) -> Result<(bool, String)> {
        let attacker = self.world.workload("attacker").uid(0).gid(0);
        self.arrives_from(&attacker, interface, way, target)
    }

    /// The same for what somebody sends by that interface.
    pub(crate) fn arrives_from(
        &self,
        attacker: &Workload<'_>,
        interface: &str,
        way: &str,
        target: &str,
    ) -> Result<(bool, String)> {
        let mut sent = self.send(attacker, interface, &[(way, target)])?;
        sent.pop().context("nothing was sent")
    }

    /// The same for many ways at once, by the cable.
    pub(crate) fn each_arrives(&self, ways: &[(&str, &str)]) -> Result<Vec<(bool, String)>> {
        let attacker = self.world.workload("attacker").uid(0).gid(0);
        self.send(&attacker, "tw-up", ways)
    }

    fn send(
        &self,
        attacker: &Workload<'_>,
        interface: &str,
        ways: &[(&str, &str)],
    ) -> Result<Vec<(bool, String)>> {
        let marks: Vec<String> = ways.iter().map(|_| self.mark()).collect();
        let mut arguments = vec!["-c", ATTACKER, interface];
        for ((way, target), mark) in ways.iter().zip(&marks) {
            arguments.extend([*way, *target, mark]);
        }
        let output = attacker.run(Path::new("/usr/bin/python3"), &arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{ways:?}: {errors}");
        let said = String::from_utf8(output.stdout)?;
        let said: Vec<String> = said.lines().map(str::to_owned).collect();
        ensure!(said.len() == ways.len(), "{ways:?}: {said:?}");
        let wanted: Vec<&[u8]> = marks.iter().map(String::as_bytes).collect();
        let seen = self.sniffer.sees_each(&wanted, patience(PATIENCE))?;
        Ok(seen.into_iter().zip(said).collect())
    }

    /// Bytes that nothing else has in it.
    fn mark(&self) -> String {
        self.sent.set(self.sent.get() + 1);
        format!("<<mark {:04}>>", self.sent.get())
    }

    /// Whether what somebody sends comes out at the cloud's end: by the mark that is in it, which `send` is told.
    pub(crate) fn comes_out(
        &self,
        send: impl FnOnce(&str) -> Result<Output>,
    ) -> Result<(bool, String)> {
        let mark = self.mark();
        let output = send(&mark)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let patience = if said == "sent" {
            PATIENCE
        } else {
            Duration::ZERO
        };
        Ok((self.sniffer.sees(mark.as_bytes(), patience)?, said))
    }
}

pub(crate) fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Without `connect()`, by (way, target).
const SOCKETS: [(&str, &str); 20] = [
    ("udp", IMDS),
    ("udplite", IMDS),
    ("udp-connected", IMDS),
    ("udp-unspec", IMDS),
    ("udp-mapped", IMDS),
    ("udp", IMDS_V6),
    ("raw-tcp", IMDS),
    ("raw-marked", IMDS),
    ("raw-udp", IMDS),
    ("header", IMDS),
    ("fragments", IMDS),
    ("later-fragment", IMDS),
    ("ping", IMDS),
    ("ping-raw", IMDS),
    ("sctp", IMDS),
    ("gre", IMDS),
    ("raw6", IMDS_V6),
    ("options6", IMDS_V6),
    ("udp-connected", IMDS_V6),
    ("header", "168.63.129.16"),
];

/// Linux 7 has retired UDP-Lite: no such socket can be made, by anybody.
fn has_no_udp_lite(said: &str) -> bool {
    let unsupported = said == format!("errno {}", nix::errno::Errno::EPROTONOSUPPORT as i32);
    unsupported && kernel_is_at_least(7, 0)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_leaves_a_socket_without_connect_reaches_no_metadata_address() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("egress")?;
    let azure = cable.world.azure()?;
    for ((way, target), (arrived, said)) in SOCKETS.iter().zip(cable.each_arrives(&SOCKETS)?) {
        let retired = *way == "udplite" && has_no_udp_lite(&said);
        assert!(
            arrived || retired,
            "without the guard, {way} to {target} arrives: {said}"
        );
    }
    let policy = FORWARDS.replace("[endpoints]", "[endpoints]\nazure-wireserver = \"enforce\"");
    let _agent = cable.world.agent().config(&policy).start()?;
    for ((way, target), (arrived, said)) in SOCKETS.iter().zip(cable.each_arrives(&SOCKETS)?) {
        assert!(!arrived, "{way} to {target}: {said}");
    }
    // What policy grants goes out, and what lives beside the endpoint is left alone.
    let answer = cable.world.workload("billing").get(super::TOKEN)?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(azure.received().len(), 1);
    let untouched = ["dns", "ntp", "other-port"].map(|way| (way, IMDS));
    let elsewhere = [
        "udp",
        "raw-tcp",
        "header",
        "fragments",
        "ping",
        "ping-raw",
        "gre",
    ];
    let others = [&untouched[..], &elsewhere.map(|way| (way, NEIGHBOUR))].concat();
    for (way, (arrived, said)) in others.iter().zip(cable.each_arrives(&others)?) {
        assert!(arrived, "{way:?}: {said}");
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn other_traffic_to_a_guarded_address_goes_as_configured() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let cable = Cable::new("other")?;
    for (word, passing, stopped) in [
        (
            "pass",
            &["dns", "other-port", "ping", "gre"][..],
            &["udp", "raw-tcp", "fragments"][..],
        ),
        (
            "refuse",
            &["dns", "ntp"],
            &["udp", "other-port", "ping", "gre"],
        ),
    ] {
        let policy = format!("{FORWARDS}\n[other_traffic]\nazure-imds = \"{word}\"");
        let _agent = cable.world.agent().config(&policy).start()?;
        for way in passing {
            assert!(cable.arrives(way, IMDS)?.0, "{word}: {way}");
        }
        for way in stopped {
            assert!(!cable.arrives(way, IMDS)?.0, "{word}: {way}");
        }
    }
    Ok(())
}
