//! Policy's features where they matter: at a live agent, asked by real processes.

use super::{LOCATION, TOKEN, ask, config, get, minted, record_of, refused, world};
use imds_guard_tests::{AZURE_IMDS, Manner, World};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GRAPH: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://graph.microsoft.com";
const STORAGE: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://storage.azure.com/";

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_grant_ends_when_its_date_passes_under_a_running_agent() {
    let world = world("until");
    let until = jiff_in(Duration::from_secs(4));
    let rules = format!(
        r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "minted"
until = "{until}"
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
document = "web"
until = "2099-01-01"
"#
    );
    let agent = world
        .agent()
        .config(&config("enforce", &rules))
        .start()
        .unwrap();
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    assert!(minted(&ask(&mut caller, &get(TOKEN))), "before its end");
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut asked = 2;
    while ask(&mut caller, &get(TOKEN)).status == 200 {
        asked += 1;
        assert!(Instant::now() < deadline, "it never ends");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The token is in the proxy's cache still; a cache grants nothing.
    let answer = ask(&mut caller, &get(TOKEN));
    refused(&answer, 403, "access_denied");
    assert!(answer.text().contains("expired"), "{}", answer.text());
    let record = record_of(&agent, caller.pid(), asked + 1);
    assert_eq!(record["denial"]["reason"], "expired", "{record}");
    assert_eq!(ask(&mut caller, &get(LOCATION)).status, 200);
}

/// A time so far ahead, in whole seconds of UTC.
fn jiff_in(ahead: Duration) -> String {
    let then = std::time::SystemTime::now() + ahead;
    let seconds = then
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_limit_is_a_429_with_its_wait_and_holds_for_its_rule_alone() {
    let world = world("limit");
    let rules = r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
limit = "3/m"
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
document = "web"
"#;
    let agent = world
        .agent()
        .config(&config("enforce", rules))
        .start()
        .unwrap();
    let billing = world.workload("billing");
    let mut caller = billing.connect(AZURE_IMDS).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut caller, &get(TOKEN)).status, 200);
    }
    let answer = ask(&mut caller, &get(TOKEN));
    refused(&answer, 429, "too_many_requests");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=21).contains(&wait), "{wait}");
    assert_eq!(record_of(&agent, caller.pid(), 4)["outcome"], "throttled");
    // Another connection is the same workload; another rule is another limit.
    assert_eq!(billing.get(TOKEN).unwrap().status, 429);
    assert_eq!(ask(&mut caller, &get(LOCATION)).status, 200);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_deny_wins_over_an_allow_but_for_its_exceptions() {
    let world = world("except");
    let rules = r#"
[[workload]]
name = "deployer"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://graph.microsoft.com", "https://vault.azure.net"] }
identity = "minted"
[[workload]]
name = "sloppy"
selectors = ["unix:uid:1001"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://graph.microsoft.com", "https://vault.azure.net"] }
identity = "minted"
[[deny]]
name = "no-graph"
token = { cloud = "azure", resource = ["https://graph.microsoft.com"] }
except = ["deployer"]
"#;
    let agent = world
        .agent()
        .config(&config("enforce", rules))
        .start()
        .unwrap();
    let (deployer, sloppy) = (
        world.workload("deployer"),
        world.workload("sloppy").uid(1001),
    );
    assert!(minted(&deployer.get(GRAPH).unwrap()));
    assert!(minted(&sloppy.get(TOKEN).unwrap()));
    let mut caller = sloppy.connect(AZURE_IMDS).unwrap();
    // Under its other names, too.
    for name in [
        GRAPH,
        &GRAPH.replace(
            "https://graph.microsoft.com",
            "00000003-0000-0000-c000-000000000000",
        ),
    ] {
        refused(&ask(&mut caller, &get(name)), 403, "access_denied");
    }
    let record = record_of(&agent, caller.pid(), 2);
    assert_eq!(record["denial"]["reason"], "deny_rule", "{record}");
    assert_eq!(record["denial"]["rule"]["name"], "no-graph", "{record}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn two_workloads_that_would_be_two_identities_are_none() {
    let world = world("ambiguous");
    let rules = r#"
[[workload]]
name = "alpha-secret-name"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net", "https://storage.azure.com"] }
identity = "minted"
[[workload]]
name = "beta-secret-name"
selectors = ["unix:gid:2000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "real"
"#;
    let agent = world
        .agent()
        .config(&config("enforce", rules))
        .start()
        .unwrap();
    let mut caller = world.workload("both").connect(AZURE_IMDS).unwrap();
    let answer = ask(&mut caller, &get(TOKEN));
    refused(&answer, 403, "access_denied");
    assert!(!answer.text().contains("secret-name"), "{}", answer.text());
    let denial = record_of(&agent, caller.pid(), 1)["denial"].clone();
    assert_eq!(denial["reason"], "ambiguous_workload", "{denial}");
    assert_eq!(
        denial["workloads"],
        serde_json::json!(["alpha-secret-name", "beta-secret-name"])
    );
    // Where only one of them answers, and for who is one of them alone, nothing is ambiguous.
    assert!(minted(&ask(&mut caller, &get(STORAGE))));
    let alpha = world.workload("alpha").gid(2001);
    assert!(minted(&alpha.get(TOKEN).unwrap()));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn any_of_is_one_of_them_with_all_that_stands_beside_it() {
    let world = world("any-of");
    let rules = r#"
[[workload]]
name = "web"
selectors = ["unix:gid:2000"]
any_of = [["unix:uid:1000"], ["unix:uid:1001", "unix:supplementary_gid:44"]]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
"#;
    let _agent = world
        .agent()
        .config(&config("enforce", rules))
        .start()
        .unwrap();
    let status = |uid, gid, groups: &[u32]| {
        let workload = world.workload("web").uid(uid).gid(gid).groups(groups);
        workload.get(TOKEN).unwrap().status
    };
    assert_eq!(status(1000, 2000, &[]), 200);
    assert_eq!(status(1001, 2000, &[44]), 200);
    assert_eq!(status(1001, 2000, &[45]), 403);
    assert_eq!(status(1000, 2001, &[]), 403);
    assert_eq!(status(1002, 2000, &[44]), 403);
}

/// Connects, asks, does `before`, asks again on the same connection (through another program where `before` executes one),
/// and prints both statuses.
pub(super) fn twice(before: &str) -> String {
    let request = get(TOKEN).replace("\r\n", "\\r\\n");
    format!(
        r#"
import os, socket, sys
def ask(s):
    s.sendall(b"{request}")
    data = b""
    while b"\r\n\r\n" not in data:
        piece = s.recv(65536)
        if not piece: sys.exit("closed")
        data += piece
    head, body = data.split(b"\r\n\r\n", 1)
    length = [int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")][0]
    while len(body) < length: body += s.recv(65536)
    print(head.split(b" ")[1].decode(), flush=True)
if len(sys.argv) > 1:
    ask(socket.socket(fileno=int(sys.argv[1])))
    sys.exit()
s = socket.create_connection(("169.254.169.254", 80))
ask(s)
os.set_inheritable(s.fileno(), True)
script = open("/proc/self/cmdline").read().split("\0")[2]
{before}
ask(s)
"#
    )
}

fn run(world: &World, program: &Path, uid: u32, script: &str) -> String {
    let output = world
        .workload("billing")
        .uid(uid)
        .run(program, &["-c", script])
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_answer_that_was_fetched_meanwhile_is_not_the_successors() {
    let world = world("successor");
    let azure = world.azure().unwrap();
    let python = python();
    let copy = world.directory().join("bin/python-copy");
    std::fs::copy(&python, &copy).unwrap();
    let rules = format!(
        r#"
[[workload]]
name = "by-path"
selectors = ["unix:uid:1000", "unix:path:{}"]
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
"#,
        python.display()
    );
    let _agent = world
        .agent()
        .config(&config("enforce", &rules))
        .start()
        .unwrap();
    azure.behave(Manner::Late(Duration::from_millis(700)));
    let script = |successor: &Path| {
        format!(
            r#"
import os, socket
s = socket.create_connection(("169.254.169.254", 80))
s.sendall(b"{request}")
os.set_inheritable(s.fileno(), True)
read = "import socket, sys; print(socket.socket(fileno=int(sys.argv[1])).recv(65536)[9:12].decode())"
import time; time.sleep(0.2)
os.execv("{successor}", ["{successor}", "-c", read, str(s.fileno())])
"#,
            request = get(LOCATION).replace("\r\n", "\\r\\n"),
            successor = successor.display(),
        )
    };
    assert_eq!(run(&world, &python, 1000, &script(&python)), "200\n");
    assert_eq!(run(&world, &python, 1000, &script(&copy)), "403\n");
    assert_eq!(azure.received().len(), 2, "asked for both times");
}

fn python() -> PathBuf {
    Path::new("/usr/bin/python3").canonicalize().unwrap()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_grant_that_rests_on_the_executable_ends_with_it() {
    let world = world("executable");
    let python = python();
    let sum = std::process::Command::new("sha256sum")
        .arg(&python)
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sum = sum.split(' ').next().unwrap();
    // A copy has the same content: it is by content who the other is by path, and neither is what the other connected as.
    let copy = world.directory().join("bin/python-copy");
    std::fs::copy(&python, &copy).unwrap();
    let rule = |name: &str, selector: &str, uid: u32| {
        format!(
            r#"
[[workload]]
name = "{name}"
selectors = ["unix:uid:{uid}", "{selector}"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "minted"
"#
        )
    };
    let rules = [
        rule("by-path", &format!("unix:path:{}", python.display()), 1000),
        rule("by-hash", &format!("unix:sha256:{sum}"), 1001),
        rule("by-gid", "unix:gid:2000", 1002),
    ]
    .concat();
    let _agent = world
        .agent()
        .config(&config("enforce", &rules))
        .start()
        .unwrap();
    let exec = format!(
        "os.execv({0:?}, [{0:?}, \"-c\", script, str(s.fileno())])",
        copy.display().to_string()
    );
    let again = exec.replace(&copy.display().to_string(), &python.display().to_string());
    for uid in [1000, 1001] {
        assert_eq!(run(&world, &python, uid, &twice("pass")), "200\n200\n");
        assert_eq!(run(&world, &python, uid, &twice(&exec)), "200\n403\n");
        assert_eq!(
            run(&world, &python, uid, &twice(&again)),
            "200\n200\n",
            "the same program, executed again, is the same program"
        );
    }
    // By another path nobody, by the same content somebody.
    assert_eq!(run(&world, &copy, 1000, &twice("pass")), "403\n403\n");
    assert_eq!(run(&world, &copy, 1001, &twice("pass")), "200\n200\n");
    // A grant that doesn't rest on it doesn't end with it.
    assert_eq!(run(&world, &python, 1002, &twice(&exec)), "200\n200\n");
}
