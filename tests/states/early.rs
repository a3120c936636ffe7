//! Before the guard runs: `imds-guard early`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use imds_guard_tests::{World, binary};

use super::{Gets, asks, billing, config, neighbour, world};

const PYTHON: &str = "/usr/bin/python3";
/// Asks on one socket, connects another and disconnects it, says so, and tries both again when it is told to.
const KEEP: &str = r#"
import ctypes, socket, sys
ask = b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
at = ("169.254.169.254", 80)
def status(s):
    try:
        s.sendall(ask)
        return (s.recv(65536)[9:12] or b"nothing").decode()
    except OSError: return "nothing"
one = socket.create_connection(at, 5)
again = socket.socket()
again.settimeout(5)
again.connect(at)
unspec = (ctypes.c_char * 16)()
assert ctypes.CDLL(None).connect(again.fileno(), unspec, 16) == 0
print(status(one), flush=True)
sys.stdin.readline()
one = status(one)
again.connect(at)
print(one, status(again), flush=True)
"#;

fn early(world: &World, mode: &str, more: &[&str]) -> String {
    let file = world.directory().join("etc/imds-guard.toml");
    std::fs::write(&file, config(mode)).unwrap();
    let program = world
        .show(&binary("imds-guard").unwrap(), "imds-guard")
        .unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
        .arg(world.cgroup_below("early").unwrap())
        .arg(program)
        .args(["early", "--config"])
        .arg(file)
        .arg("--cgroup-root")
        .arg(world.cgroup())
        .arg("--pin-dir")
        .arg(world.directory().join("bpf/imds-guard"))
        .args(more);
    let output = world.enter(|| Ok(command.output()?)).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn early_refuses_what_is_enforced_and_a_unit_that_may_pass_passes() {
    let world = world("early");
    let azure = world.azure().unwrap();
    assert_eq!(asks(&neighbour(&world)), Gets::Untouched);
    early(&world, "enforce", &["--pass", "cloud-init.service"]);
    let cloud_init = world
        .workload("x")
        .uid(0)
        .in_cgroup("system.slice/cloud-init.service");
    let asked = azure.received().len();
    for who in [billing(&world), neighbour(&world)] {
        assert_eq!(asks(&who), Gets::Refused);
    }
    assert_eq!(azure.received().len(), asked);
    assert_eq!(asks(&cloud_init), Gets::Untouched);
    // A name is no ticket.
    let other = world
        .workload("x")
        .uid(0)
        .in_cgroup("user.slice/cloud-init.service");
    assert_eq!(asks(&other), Gets::Refused);
    // Once more changes nothing; and the guard takes over.
    assert!(early(&world, "enforce", &[]).contains("nothing to do"));
    // What it kept from then is worth nothing once the guard runs: neither a connection nor a socket that was connected once.
    let mut kept = cloud_init.spawn(PYTHON.as_ref(), &["-c", KEEP]).unwrap();
    let mut said = BufReader::new(kept.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "200");
    let asked = azure.received().len();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&cloud_init), Gets::Denied);
    kept.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "nothing 403");
    assert!(kept.wait().unwrap().success());
    assert_eq!(azure.received().len(), asked);
    assert!(early(&world, "enforce", &[]).contains("nothing to do"));
    drop(agent);
    assert_eq!(asks(&cloud_init), Gets::Refused);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn early_leaves_alone_what_is_not_enforced() {
    for mode in ["observe", "audit"] {
        let world = world("early-audit");
        let _azure = world.azure().unwrap();
        early(&world, mode, &[]);
        assert_eq!(asks(&neighbour(&world)), Gets::Untouched, "{mode}");
    }
}
