//! Beside programs of others that decide where a connection goes, at the same cgroup, above it and below it, in both orders and
//! after each has come anew: nobody gets past us, who has a grant keeps it wherever the kernel lets us have the first word, and
//! where it doesn't, `doctor` says so.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use imds_guard_tests::{AgentProcess, FakeAzure, Workload, World, binary, kernel_is_at_least};
use serde_json::Value;

use super::foreign::{Foreign, Hook, How, Rewrite};
use super::{Gets, TOKEN, asks, billing, config, drifts, neighbour, soon, world};
use imds_guard_tests::UPSTREAM_TOKEN;

const IMDS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);
/// Where somebody's proxy listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3080);
/// A service's address, which only a load balancer knows.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);

/// As the Azure guest proxy agent does it: to a proxy of its own, but for what that dials itself, which runs as root.
const REDIRECT: Rewrite = Rewrite {
    hook: Hook::Connect,
    from: IMDS,
    to: PROXY,
    but: 0,
};
/// As a load balancer does it; nobody should have such a service.
const BALANCE: Rewrite = Rewrite {
    hook: Hook::Connect,
    from: SERVICE,
    to: IMDS,
    but: u32::MAX,
};

/// A proxy that passes on whatever comes to the real service, as root in a unit of its own, and says a line for each caller.
struct Proxy {
    process: Child,
    log: std::path::PathBuf,
}

impl Proxy {
    fn start(world: &World) -> Result<Self> {
        let script = r#"
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 3080))
log = open(sys.argv[1], "w", buffering=1)
print("ready", file=log)
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    b.close()
while True:
    caller, _ = listener.accept()
    try:
        real = socket.create_connection(("169.254.169.254", 80), 5)
    except OSError as error:
        print("refused", error.errno, file=log)
        caller.close()
        continue
    print("passed on", file=log)
    for pair in ((caller, real), (real, caller)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"#;
        let log = world.directory().join("proxy.log");
        let unit = world.workload("proxy-agent").uid(0).gid(0);
        let unit = unit.in_cgroup("system.slice/azure-proxy-agent.service");
        let process = unit.spawn(
            Path::new("/usr/bin/python3"),
            &["-c", script, &log.display().to_string()],
        )?;
        let proxy = Self { process, log };
        soon(
            Duration::from_secs(10),
            || "its proxy".into(),
            || proxy.said().first().is_some_and(|line| line == "ready"),
        );
        Ok(proxy)
    }

    fn said(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What became of the callers that it had.
    fn callers(&self) -> Vec<String> {
        self.said().split_off(1)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// What somebody gets who asks for a token at a service's address; waits three seconds for a connection.
fn asks_service(who: &Workload<'_>) -> Gets {
    let connected = who.connect_with(&SERVICE.to_string(), &["--within=3000"]);
    let answer = connected.and_then(|mut caller| {
        let head =
            format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n");
        caller.send(head.as_bytes())?;
        caller.response()
    });
    match answer {
        Ok(answer) if answer.text().contains(UPSTREAM_TOKEN) => Gets::Untouched,
        Ok(answer) if answer.status == 200 => Gets::Served,
        Ok(answer) if answer.status == 403 => Gets::Denied,
        Err(error) if error.to_string().contains("refused") => Gets::Refused,
        _ => Gets::Other,
    }
}

/// What `doctor` says of programs of others.
fn doctor(world: &World, root: &Path) -> Result<(String, Vec<String>)> {
    let mut command = Command::new(world.show(&binary("imds-guard")?, "imds-guard")?);
    let at = |name: &str| world.directory().join(name);
    command
        .args(["doctor", "--json", "--cgroup-root"])
        .arg(root);
    command.arg("--pin-dir").arg(at("bpf/imds-guard"));
    command.arg("--run-dir").arg(at("run"));
    let output = world.enter(move || Ok(command.output()?))?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let findings = report["findings"].as_array().context("no findings")?;
    let found = findings.iter().find(|f| f["check"] == "foreign-programs");
    let found = found.context("no such finding")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let subjects = found["subjects"].as_array().into_iter().flatten();
    Ok((text(&found["state"]), subjects.map(text).collect()))
}

/// Waits for a record of this drift.
#[track_caller]
fn told(agent: &AgentProcess, what: &str, change: &str) -> Value {
    let find = || {
        let mut all = drifts(agent);
        all.retain(|r| r["what"] == what && r["change"] == change);
        all.pop()
    };
    let why = || format!("{what} {change}: {:?}\n{}", drifts(agent), agent.log());
    soon(Duration::from_secs(1), why, || find().is_some());
    find().unwrap()
}

/// Whether the kernel lets us have the first word at a cgroup.
fn first_word() -> bool {
    kernel_is_at_least(6, 17)
}

/// A world with a real service, somebody's proxy, and callers.
struct Stage<'w> {
    world: &'w World,
    azure: FakeAzure,
    proxy: Proxy,
}

impl<'w> Stage<'w> {
    fn new(world: &'w World) -> Self {
        Self {
            world,
            azure: world.azure().unwrap(),
            proxy: Proxy::start(world).unwrap(),
        }
    }

    fn start(&self) -> AgentProcess {
        let agent = self.world.agent().config(&config("enforce"));
        agent.start().unwrap()
    }

    /// What `asks` adds to what the real service and somebody's proxy have heard.
    fn heard(&self, asks: impl FnOnce()) -> (usize, Vec<String>) {
        let (real, proxy) = (self.azure.received().len(), self.proxy.callers().len());
        asks();
        let real = self.azure.received().len() - real;
        (real, self.proxy.callers().split_off(proxy))
    }

    /// Who has a grant is served, who has none denied; nobody else heard of it.
    #[track_caller]
    fn guarded(&self) {
        let heard = self.heard(|| {
            assert_eq!(asks(&billing(self.world)), Gets::Served);
            assert_eq!(asks(&neighbour(self.world)), Gets::Denied);
        });
        assert_eq!(heard, (0, vec![]));
    }

    /// Their proxy has these callers, and gets what anybody gets who has no grant.
    #[track_caller]
    fn theirs(&self, callers: &[&Workload<'_>]) {
        let (real, proxy) = self.heard(|| {
            for caller in callers {
                let got = asks(caller);
                assert!(matches!(got, Gets::Denied | Gets::Other), "{got:?}");
            }
        });
        assert_eq!((real, proxy.len()), (0, callers.len()), "{proxy:?}");
    }

    /// The one or the other, by whether the kernel has an order.
    #[track_caller]
    fn guarded_or_told(&self) {
        let (state, subjects) = doctor(self.world, self.world.cgroup()).unwrap();
        if first_word() {
            self.guarded();
            assert_eq!(state, "ok", "{subjects:?}");
        } else {
            self.theirs(&[&billing(self.world), &neighbour(self.world)]);
            assert_eq!(state, "weak", "{subjects:?}");
        }
        assert!(
            subjects.iter().any(|s| s.contains("stranger")),
            "{subjects:?}"
        );
    }
}

fn redirector(world: &World, how: How) -> Foreign {
    Foreign::attach(REDIRECT, world.cgroup(), how).unwrap()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_redirector_that_was_there_first_and_comes_again_has_no_word() {
    for how in [How::Link, How::Multi] {
        let world = world("others-first");
        let stage = Stage::new(&world);
        let theirs = redirector(&world, how);
        // The twin: it redirects.
        let heard = stage.heard(|| assert_eq!(asks(&neighbour(&world)), Gets::Untouched));
        assert_eq!(heard, (1, vec!["passed on".to_owned()]));
        let agent = stage.start();
        stage.guarded_or_told();
        let change = if first_word() {
            "runs_between"
        } else {
            "runs_before"
        };
        told(&agent, "connect4", change);
        // It comes anew, and is behind all of ours for a moment.
        drop(theirs);
        let _theirs = redirector(&world, how);
        told(&agent, "connect4", "runs_after");
        stage.guarded_or_told();
        // And we.
        drop(agent);
        let _agent = stage.start();
        stage.guarded_or_told();
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_redirector_that_comes_later_has_no_word_also_while_the_guard_is_away() {
    for how in [How::Link, How::Multi] {
        let world = world("others-later");
        let stage = Stage::new(&world);
        let agent = stage.start();
        let _theirs = redirector(&world, how);
        told(&agent, "connect4", "runs_after");
        stage.guarded_or_told();
        drop(agent);
        let heard = stage.heard(|| {
            let got = asks(&neighbour(&world));
            assert!(matches!(got, Gets::Refused | Gets::Other), "{got:?}");
        });
        assert_eq!(heard.0, 0, "the real service heard somebody");
        assert!(!first_word() || heard.1.is_empty(), "{heard:?}");
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_allows_no_other_stops_the_start_and_can_not_come_beside_ours() {
    for how in [How::Alone, How::Override] {
        let world = world("others-alone");
        let stage = Stage::new(&world);
        let theirs = redirector(&world, how);
        let mut refused = world.agent().config(&config("enforce")).spawn().unwrap();
        let ended = refused.wait_end(Duration::from_secs(20)).unwrap();
        assert_eq!(ended.code(), Some(1));
        let said = refused.log();
        assert!(said.contains("bpftool cgroup show"), "{said}");
        drop(theirs);
        let agent = stage.start();
        stage.guarded();
        let error = Foreign::attach(REDIRECT, world.cgroup(), how).unwrap_err();
        assert!(format!("{error:#}").contains("EPERM"), "{error:#}");
        stage.guarded();
        assert!(drifts(&agent).is_empty());
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn one_that_runs_before_all_by_its_flag_is_told_and_gets_nothing_for_its_callers() {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent);
    if !kernel_is_at_least(6, 15) {
        let world = world("others-flag");
        Foreign::attach(REDIRECT, world.cgroup(), How::Preorder).unwrap_err();
        return;
    }
    let world = world("others-flag");
    let stage = Stage::new(&world);
    let agent = stage.start();
    let theirs = redirector(&world, How::Preorder);
    let first = if first_word() { "ahead4" } else { "connect4" };
    let record = told(&agent, first, "runs_before");
    assert!(record["failed"].is_string(), "{record}");
    stage.theirs(&[&billing(&world), &neighbour(&world)]);
    let (state, subjects) = doctor(&world, world.cgroup()).unwrap();
    assert_eq!(state, "weak", "{subjects:?}");
    // Told once: it can't be put back.
    let count = drifts(&agent).len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(drifts(&agent).len(), count);
    drop(theirs);
    stage.guarded();
    assert_eq!(doctor(&world, world.cgroup()).unwrap().0, "ok");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn one_at_a_cgroup_below_has_its_own_callers_alone_and_gets_nothing_for_them() {
    for how in [How::Link, How::Alone, How::Override, How::Multi] {
        let world = world("others-below");
        let stage = Stage::new(&world);
        let tenant = billing(&world).in_cgroup("tenant.slice/app.service");
        let below = world.cgroup_below("tenant.slice").unwrap();
        // Before ours and after, for the kernel it is one: its cgroup decides.
        let before = Foreign::attach(REDIRECT, &below, how).unwrap();
        let _agent = stage.start();
        stage.theirs(&[&tenant]);
        stage.guarded();
        drop(before);
        assert_eq!(asks(&tenant), Gets::Served);
        let _after = Foreign::attach(REDIRECT, &below, how).unwrap();
        stage.theirs(&[&tenant]);
        stage.guarded();
        let (state, subjects) = doctor(&world, world.cgroup()).unwrap();
        assert_eq!(state, "weak");
        assert!(
            subjects
                .iter()
                .any(|s| s.contains("stranger") && s.contains("/tenant.slice")),
            "{subjects:?}"
        );
        // What it turns into the metadata address is judged by us.
        let _balancer = match how {
            How::Alone | How::Override => continue,
            how => Foreign::attach(BALANCE, &below, how).unwrap(),
        };
        assert_eq!(asks_service(&tenant), Gets::Served);
        let other = neighbour(&world).in_cgroup("tenant.slice/other.service");
        assert_eq!(asks_service(&other), Gets::Denied);
        assert!(stage.azure.received().is_empty());
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn one_at_a_cgroup_above_is_told_and_runs_after_ours() {
    let world = world("others-above");
    let stage = Stage::new(&world);
    let root = world.cgroup_below("guarded").unwrap();
    let _theirs = redirector(&world, How::Multi);
    let guarding = world.agent().config(&config("enforce"));
    let agent = guarding.guarding(root.clone()).start().unwrap();
    let (granted, not) = (
        billing(&world).in_cgroup("guarded/billing.service"),
        neighbour(&world).in_cgroup("guarded/neighbour.service"),
    );
    let record = told(&agent, "connect4", "runs_after");
    assert!(record["failed"].is_string(), "{record}");
    assert_eq!(asks(&granted), Gets::Served);
    assert_eq!(asks(&not), Gets::Denied);
    let (state, subjects) = doctor(&world, &root).unwrap();
    assert_eq!(state, "weak", "{subjects:?}");
    assert!(stage.azure.received().is_empty());
    // Why it is: no program of ours at connect() comes behind it. Its packets are dropped.
    let _balancer = Foreign::attach(BALANCE, world.cgroup(), How::Multi).unwrap();
    let began = Instant::now();
    assert_eq!(asks_service(&not), Gets::Other);
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(stage.azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_load_balancer_leads_nobody_past_us_in_either_order() {
    let world = world("others-balance");
    let azure = world.azure().unwrap();
    let first = Foreign::attach(BALANCE, world.cgroup(), How::Multi).unwrap();
    assert_eq!(
        asks_service(&neighbour(&world)),
        Gets::Untouched,
        "the twin"
    );
    let real = azure.received().len();
    let judged = || {
        assert_eq!(asks_service(&billing(&world)), Gets::Served);
        assert_eq!(asks_service(&neighbour(&world)), Gets::Denied);
        assert_eq!(asks(&billing(&world)), Gets::Served);
        assert_eq!(azure.received().len(), real);
    };
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    judged();
    // Anew: for a moment it runs after ours.
    drop(first);
    let _again = Foreign::attach(BALANCE, world.cgroup(), How::Multi).unwrap();
    told(&agent, "connect4", "runs_after");
    judged();
    drop(agent);
    assert_eq!(asks_service(&neighbour(&world)), Gets::Refused);
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    judged();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_load_balancers_own_services_work_beside_us() {
    let world = world("others-services");
    let _azure = world.azure().unwrap();
    let backend = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9090);
    let at = |hook, from, to| Rewrite {
        hook,
        from,
        to,
        but: u32::MAX,
    };
    // As Cilium's: where it goes, for streams and datagrams, and what the caller sees of it.
    let attach = || {
        [
            at(Hook::Connect, SERVICE, backend),
            at(Hook::SendMsg, SERVICE, backend),
            at(Hook::PeerName, backend, SERVICE),
        ]
        .map(|rewrite| Foreign::attach(rewrite, world.cgroup(), How::Multi).unwrap())
    };
    let before = attach();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let script = r#"
import socket
service = ("10.96.0.10", 80)
tcp, udp = socket.create_server(("127.0.0.1", 9090)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 9090))
stream = socket.create_connection(service, 5)
assert stream.getpeername() == service, stream.getpeername()
tcp.accept()[0].close()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", service)
assert udp.recv(1) == b"x"
real = socket.create_connection(("169.254.169.254", 80), 5)
assert real.getpeername() == ("169.254.169.254", 80), real.getpeername()
"#;
    let works = || {
        let client = world.workload("client").uid(1003);
        let output = client.run(Path::new("/usr/bin/python3"), &["-c", script]);
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(asks(&billing(&world)), Gets::Served);
    };
    works();
    drop(before);
    let _after = attach();
    told(&agent, "connect4", "runs_after");
    works();
}
