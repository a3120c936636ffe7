//! The units, under a real systemd: what `systemd/README.md` says is so.

mod machine;

use anyhow::Result;
use imds_guard_tests::{UPSTREAM_TOKEN, World, require};
use machine::{Machine, text};

const POLICY: &str = include_str!("../../systemd/examples/imds-guard.toml");
const VAULT: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
const GUARD: &str = "imds-guard.service";
const PROXY: &str = "imds-guard-proxy.service";

/// Capabilities as bits: BPF 39, PERFMON 38, SYS_PTRACE 19, NET_ADMIN 12, DAC_READ_SEARCH 2.
const GUARD_CAPABILITIES: u64 = 1 << 39 | 1 << 38 | 1 << 19 | 1 << 12 | 1 << 2;

fn started(world: &World) -> Result<Machine> {
    require!(Root, Cgroup2, Bpf, Agent);
    let machine = Machine::boot(world, POLICY)?;
    if let Err(error) = machine.must(&["systemctl", "start", GUARD]) {
        return Err(error.context(machine.journal("imds-guard*")));
    }
    machine.wait_active(PROXY, "")?;
    Ok(machine)
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn the_unit_files_are_sound() {
    require!(Root, Cgroup2, Agent);
    let world = World::new("verify").unwrap();
    let machine = Machine::boot(&world, POLICY).unwrap();
    let output = machine
        .run(&["systemd-analyze", "verify", GUARD, PROXY])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !said.contains("imds-guard"),
        "{said}"
    );
    for unit in [GUARD, PROXY] {
        let table = machine
            .run(&["systemd-analyze", "security", "--no-pager", unit])
            .unwrap();
        println!("{}", text(&table).lines().last().unwrap_or_default());
    }
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn both_run_with_exactly_the_power_that_their_units_name() {
    let world = World::new("power").unwrap();
    let machine = started(&world).unwrap();
    assert_eq!(machine.property(GUARD, "ActiveState").unwrap(), "active");
    assert_eq!(machine.property(GUARD, "Type").unwrap(), "notify");
    for (unit, expected) in [(GUARD, GUARD_CAPABILITIES), (PROXY, 0)] {
        let status = machine
            .must(&[
                "cat",
                &format!("/proc/{}/status", machine.main_pid(unit).unwrap()),
            ])
            .unwrap();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
        assert_eq!(
            set("CapEff:") & !expected,
            0,
            "{unit} has more than its unit names: {status}"
        );
        assert_eq!(
            set("CapBnd:") & !expected,
            0,
            "{unit} could get more: {status}"
        );
        assert_eq!(field("NoNewPrivs:"), "1", "{unit}");
        assert_eq!(field("Seccomp:"), "2", "{unit}");
    }
    let proxy = machine
        .must(&[
            "ps",
            "-o",
            "user:30=",
            "-p",
            &machine.main_pid(PROXY).unwrap(),
        ])
        .unwrap();
    assert_eq!(proxy, "imds-guard-proxy");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_unit_gets_its_token_and_its_neighbour_does_not() {
    let world = World::new("units").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    let (code, body) = machine.ask("billing", VAULT).unwrap();
    assert_eq!(code, "200", "{body}\n{}", machine.journal("imds-guard*"));
    assert!(
        body.contains("access_token") && !body.contains(UPSTREAM_TOKEN),
        "{body}"
    );
    let (code, body) = machine.ask("web", VAULT).unwrap();
    assert_eq!(code, "403", "{body}");
    assert!(!body.contains("access_token"), "{body}");
    assert!(
        azure.received().is_empty(),
        "neither was for the real service: {:?}",
        azure.received()
    );
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn killing_either_process_leaks_nothing_and_both_come_back() {
    let world = World::new("killed").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    for unit in [PROXY, GUARD] {
        let (guard, proxy) = (
            machine.main_pid(GUARD).unwrap(),
            machine.main_pid(PROXY).unwrap(),
        );
        machine
            .must(&[
                "systemctl",
                "kill",
                "--signal=KILL",
                "--kill-who=main",
                unit,
            ])
            .unwrap();
        let (code, body) = machine.ask("web", VAULT).unwrap();
        assert_ne!(code, "200", "right after {unit} was killed: {body}");
        machine.wait_active(PROXY, &proxy).unwrap();
        machine
            .wait_active(GUARD, if unit == GUARD { &guard } else { "" })
            .unwrap();
        let (code, body) = machine.ask("billing", VAULT).unwrap();
        assert_eq!(
            code,
            "200",
            "after {unit} came back: {body}\n{}",
            machine.journal("imds-guard*")
        );
    }
    assert!(
        azure.received().is_empty(),
        "something got through: {:?}",
        azure.received()
    );
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn stopping_the_units_keeps_the_address_shut_until_teardown() {
    let world = World::new("stopped").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    machine.must(&["systemctl", "stop", GUARD, PROXY]).unwrap();
    let (code, _) = machine.ask("billing", VAULT).unwrap();
    assert_eq!(code, "000", "stopped, and a caller was answered");
    assert!(azure.received().is_empty());
    machine.must(&["imds-guard", "teardown"]).unwrap();
    let (code, body) = machine.ask("web", VAULT).unwrap();
    assert_eq!(
        code, "200",
        "after teardown the address is as it was without us"
    );
    assert!(body.contains(UPSTREAM_TOKEN));
}
