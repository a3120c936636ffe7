//! No answer on a kept connection for a process that is not any more what it was when it connected.

use anyhow::Result;
use imds_guard_tests::{AZURE_IMDS, World, require};
use std::fs;
use std::path::Path;

use super::{INSTANCE, TOKEN, agent, get};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_kept_connection_of_an_unchanged_process_is_served_again_and_again() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("unchanged")?;
    let _agent = agent(&world)?;
    let mut caller = world.workload("billing").connect(AZURE_IMDS)?;
    for target in [TOKEN, INSTANCE, TOKEN, TOKEN] {
        caller.send(&get(target))?;
        assert_eq!(caller.response()?.status, 200, "{target}");
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_process_that_has_left_its_cgroup_gets_nothing_more() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("moved")?;
    let _agent = agent(&world)?;
    let workload = world.workload("billing");
    let mut caller = workload.connect(AZURE_IMDS)?;
    caller.send(&get(TOKEN))?;
    assert_eq!(caller.response()?.status, 200);
    let elsewhere = world.cgroup_below("elsewhere.service")?;
    fs::write(elsewhere.join("cgroup.procs"), caller.pid().to_string())?;
    for target in [TOKEN, INSTANCE] {
        caller.send(&get(target))?;
        let answer = caller.response()?;
        assert_eq!(answer.status, 403, "{target}");
        assert!(String::from_utf8_lossy(&answer.body).contains("ended or changed"));
    }
    fs::write(
        workload.cgroup()?.join("cgroup.procs"),
        caller.pid().to_string(),
    )?;
    caller.send(&get(TOKEN))?;
    assert_eq!(
        caller.response()?.status,
        200,
        "back where it connected, it is who it was"
    );
    Ok(())
}

/// Connects, says `C`, and for each byte on stdin sends a request and prints the status. What `before` is, it does once
/// after its first answer.
fn becoming(before: &str) -> String {
    let request = String::from_utf8_lossy(&get(TOKEN)).replace("\r\n", "\\r\\n");
    format!(
        r#"
import os, socket, sys, time
def ask(s):
    s.sendall(b"{request}")
    head = b""
    while b"\r\n\r\n" not in head:
        piece = s.recv(65536)
        if not piece: sys.exit("closed")
        head += piece
    length = [int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")][0]
    body = head.split(b"\r\n\r\n", 1)[1]
    while len(body) < length: body += s.recv(65536)
    print(head.split(b" ")[1].decode(), flush=True)
s = socket.create_connection(("169.254.169.254", 80))
ask(s)
{before}
ask(s)
"#
    )
}

fn statuses(world: &World, uid: u32, before: &str) -> Result<String> {
    let python = Path::new("/usr/bin/python3");
    let output = world
        .workload("billing")
        .uid(uid)
        .run(python, &["-c", &becoming(before)])?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_connection_that_outlives_its_process_in_a_child_is_refused() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("outlived")?;
    let _agent = agent(&world)?;
    // The parent connects and exits; its child goes on with the inherited socket.
    let handed = "
r, w = os.pipe()
if os.fork():
    os._exit(0)
os.close(w)
time.sleep(0.3)
";
    assert_eq!(statuses(&world, 1000, handed)?, "200\n403\n");
    assert_eq!(statuses(&world, 1000, "time.sleep(0.3)")?, "200\n200\n");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_process_that_changes_its_uid_is_refused() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("setuid")?;
    let _agent = world
        .agent()
        .config(
            r#"
            [host]
            trust_domain = "example.org"
            name = "web-07"
            [issuer]
            url = "http://127.0.0.1:8787"
            [identity.root]
            cloud = "azure"
            source = "mint"
            subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
            [[workload]]
            name = "root"
            selectors = ["unix:uid:0"]
            [[workload.allow]]
            token = { cloud = "azure", resource = ["https://vault.azure.net"] }
            identity = "root"
            "#,
        )
        .start()?;
    assert_eq!(statuses(&world, 0, "os.setuid(1001)")?, "200\n403\n");
    assert_eq!(statuses(&world, 0, "os.seteuid(1001)")?, "200\n403\n");
    assert_eq!(statuses(&world, 0, "pass")?, "200\n200\n");
    Ok(())
}

/// Grants whoever runs this program an approval that the real service gets.
fn approving(program: &Path) -> String {
    format!(
        r#"
        [[workload]]
        name = "operator"
        selectors = ["unix:uid:1000", "unix:path:{}"]
        [[workload.allow]]
        read = ["azure:/metadata/scheduledevents"]
        write = ["azure:/metadata/scheduledevents"]
        "#,
        program.display()
    )
}

/// Sends a head and half of its body, becomes another, and sends the rest; what is said to that one.
const HALF: &str = r#"
if len(sys.argv) > 2:
    s = socket.socket(fileno=int(sys.argv[2]))
    s.settimeout(5)
    s.sendall(b'y"]}')
    say(answer(s))
    sys.exit()
s = connect()
body = b'{"StartRequests":["x'
s.sendall(b"POST /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n"
          b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (len(body) + 4) + body)
time.sleep(0.3)
os.set_inheritable(s.fileno(), True)
script = open("/proc/self/cmdline").read().split("\0")[2]
os.execv(sys.argv[1], [sys.argv[1], "-c", script, "again", str(s.fileno())])
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_body_that_comes_slowly_gives_no_time_to_become_another() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("slow-body")?;
    let azure = world.azure()?;
    let python = Path::new("/usr/bin/python3").canonicalize()?;
    let copy = world.directory().join("bin/another");
    fs::copy(&python, &copy)?;
    let _agent = world.agent().config(&approving(&python)).start()?;
    let who = world.workload("operator");
    let script = super::script(HALF);
    let sent_by = |successor: &Path| {
        let successor = successor.display().to_string();
        super::said(&who, &python, &["-c", &script, &successor])
    };
    assert_eq!(sent_by(&copy)?, "403\n");
    assert!(azure.received().is_empty(), "{:?}", azure.received());
    // The same program, executed again, is the same: the service hears of it (and finds no event named in it).
    assert_eq!(sent_by(&python)?, "400\n");
    let received = azure.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert!(
        received[0]
            .line
            .starts_with("POST /metadata/scheduledevents")
    );
    Ok(())
}
