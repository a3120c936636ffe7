//! The units, under a real systemd: what `systemd/README.md` says is so.

mod beside;
mod boot;
mod exposure;
mod glass;
mod machine;
mod platform;
mod restart;
mod states;
mod watchdog;

use anyhow::Result;
use imds_guard_tests::{UPSTREAM_TOKEN, World, require};
use machine::Machine;

const POLICY: &str = include_str!("policy.toml");
const VAULT: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
const GUARD: &str = "imds-guard.service";
const PROXY: &str = "imds-guard-proxy.service";
const EARLY: &str = "imds-guard-early.service";

/// Capabilities as bits: BPF 39, PERFMON 38, SYS_ADMIN 21, SYS_PTRACE 19, NET_ADMIN 12, SETUID 7, SETGID 6,
/// DAC_READ_SEARCH 2.
const GUARD_CAPABILITIES: u64 =
    1 << 39 | 1 << 38 | 1 << 21 | 1 << 19 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 2;

fn started(world: &World) -> Result<Machine> {
    require!(Root, Cgroup2, Bpf, Agent);
    let machine = Machine::boot(world, POLICY)?;
    // Both say themselves when they serve, so nothing is waited for after this.
    if let Err(error) = machine.must(&["systemctl", "start", GUARD, PROXY]) {
        return Err(error.context(machine.journal("imds-guard*")));
    }
    Ok(machine)
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn the_unit_files_are_sound() {
    require!(Root, Cgroup2, Agent);
    let world = World::new("verify").unwrap();
    let machine = Machine::boot(&world, POLICY).unwrap();
    let output = machine
        .run(&["systemd-analyze", "verify", "--man=no", GUARD, PROXY, EARLY])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !said.contains("imds-guard"),
        "{said}"
    );
    exposure::assert_least(&machine);
}

/// What `/proc/PID/status` says of a unit's main process.
struct Status(String);

impl Status {
    fn of(machine: &Machine, unit: &str) -> Self {
        let pid = machine.main_pid(unit).expect("a main process");
        Self(
            machine
                .must(&["cat", &format!("/proc/{pid}/status")])
                .expect("the process lives"),
        )
    }

    fn field(&self, name: &str) -> &str {
        let lines = self.0.lines();
        let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.next().expect("a field of that name").trim()
    }

    fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).expect("hexadecimal")
    }
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn both_run_with_exactly_the_power_that_their_units_name() {
    let world = World::new("power").unwrap();
    let machine = started(&world).unwrap();
    for (unit, expected) in [(GUARD, GUARD_CAPABILITIES), (PROXY, 0)] {
        assert_eq!(machine.property(unit, "ActiveState").unwrap(), "active");
        assert_eq!(machine.property(unit, "Type").unwrap(), "notify");
        let status = Status::of(&machine, unit);
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status.set(set), expected, "{unit} {set}: {}", status.0);
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(status.set(set), 0, "{unit} {set}: {}", status.0);
        }
        assert_eq!(status.field("NoNewPrivs"), "1", "{unit}");
        assert_eq!(status.field("Seccomp"), "2", "{unit}");
    }
    let uid = machine.must(&["id", "-u", "imds-guard-proxy"]).unwrap();
    let proxy = Status::of(&machine, PROXY);
    let uids: Vec<&str> = proxy.field("Uid").split_whitespace().collect();
    assert_eq!(
        uids,
        [uid.as_str(); 4],
        "real, effective, saved, and for files"
    );
    assert_ne!(uid, "0");
    // Its own filter lies upon the unit's.
    assert!(proxy.field("Seccomp_filters").parse::<u32>().unwrap() > 1);
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
    // The same with a network namespace of its own: the guard may go there, under its unit's filter.
    let (code, body) = machine
        .ask_from("billing", &["-p", "PrivateNetwork=yes"], VAULT)
        .unwrap();
    assert_eq!(code, "200", "{body}\n{}", machine.journal("imds-guard*"));
    let (code, body) = machine.ask("web", VAULT).unwrap();
    assert_eq!(code, "403", "{body}");
    assert!(!body.contains("access_token"), "{body}");
    assert!(
        azure.received().is_empty(),
        "neither was for the real service: {:?}",
        azure.received()
    );
    // A system call that its sandbox doesn't know would have ended it.
    assert_eq!(machine.property(PROXY, "NRestarts").unwrap(), "0");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn a_reload_takes_a_good_policy_and_keeps_the_last_good_one() {
    let world = World::new("reload").unwrap();
    let azure = world.azure().unwrap();
    let machine = started(&world).unwrap();
    let guard = machine.main_pid(GUARD).unwrap();
    let asks = |unit: &str| machine.ask(unit, VAULT).unwrap().0;
    assert_eq!((asks("billing"), asks("web")), ("200".into(), "403".into()));

    machine.configure("this is no policy").unwrap();
    reload(&machine, "the reload is refused");
    assert_eq!((asks("billing"), asks("web")), ("200".into(), "403".into()));

    machine
        .configure(&POLICY.replace("systemd:id:billing.service", "systemd:id:web.service"))
        .unwrap();
    reload(&machine, "policy reloaded");
    assert_eq!((asks("billing"), asks("web")), ("403".into(), "200".into()));

    for unit in [GUARD, PROXY] {
        assert_eq!(machine.property(unit, "ActiveState").unwrap(), "active");
        assert_eq!(machine.property(unit, "NRestarts").unwrap(), "0");
    }
    assert_eq!(machine.main_pid(GUARD).unwrap(), guard);
    assert!(azure.received().is_empty(), "{:?}", azure.received());
}

/// `systemctl reload`, and wait for what the guard says of it: systemd 252 doesn't wait for the end of a reload by signal.
fn reload(machine: &Machine, said: &str) {
    machine
        .must(&["systemctl", "reload", GUARD])
        .expect("accepted");
    machine.wait_journal(GUARD, said).expect("told");
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
        // Refused by the kernel, or by the next process; answered by none.
        for _ in 0..3 {
            let (code, body) = machine.ask("web", VAULT).unwrap();
            assert!(
                matches!(code.as_str(), "000" | "403" | "503"),
                "right after {unit} was killed: {code} {body}"
            );
        }
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
