//! A pid is no identity: whoever takes the number of a process that has ended gets nothing over that one's connections,
//! not even as the same user in the same cgroup. The kernel gives the very number (clone3 with set_tid), no luck involved.

use anyhow::{Result, ensure};
use imds_guard_tests::{World, require};
use std::path::Path;

use super::{POLICY, TOKEN, get};

/// As root in the workload's cgroup: `connector` takes its place as uid 1000, connects, hands the connected socket over
/// and ends; `successor` gets its pid. Prints each answer's status, and what it says of a refusal.
const STORY: &str = r#"
import array, ctypes, os, signal, socket, sys, time
request = b"@REQUEST@"
libc = ctypes.CDLL(None, use_errno=True)

def fork_as(pid):
    # struct clone_args up to set_tid_size; number 435 on every architecture.
    set_tid = (ctypes.c_int * 1)(pid)
    args = (ctypes.c_uint64 * 10)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(set_tid), 1)
    made = libc.syscall(435, args, ctypes.sizeof(args))
    if made < 0:
        sys.exit("clone3 for pid %d: %s" % (pid, os.strerror(ctypes.get_errno())))
    return made

def become(uid):
    os.setgroups([]); os.setgid(2000); os.setuid(uid)

def ask(s, whose):
    s.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = s.recv(65536)
        if not piece: sys.exit(whose + ": closed")
        answer += piece
    head, body = answer.split(b"\r\n\r\n", 1)
    length = [int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length")][0]
    while len(body) < length: body += s.recv(65536)
    why = " changed" if b"ended or changed" in body else ""
    print(whose, head.split(b" ")[1].decode() + why, flush=True)

def reap(pid):
    if os.waitpid(pid, 0)[1] != 0: sys.exit("a process of the story failed")

attested, uid, alive = sys.argv[1] == "attested", int(sys.argv[2]), float(sys.argv[3])
for _ in range(int(sys.argv[4])):
    here, there = socket.socketpair()
    connector = os.fork()
    if connector == 0:
        become(1000)
        s = socket.create_connection(("169.254.169.254", 80))
        if attested: ask(s, "connector")
        there.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
        time.sleep(alive)
        os._exit(0)
    _, ancillary, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
    kept = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
    reap(connector)
    successor = fork_as(connector)
    if successor == 0:
        if os.getpid() != connector: os._exit(9)
        become(uid)
        ask(kept, "kept")
        ask(socket.create_connection(("169.254.169.254", 80)), "own")
        os._exit(0)
    reap(successor)
"#;

/// One telling of [`STORY`].
struct Telling<'a> {
    /// Whether the first owner of the pid asks for a token itself: `attested` or `unasked`.
    first: &'a str,
    /// User of the pid's second owner.
    uid: u32,
    /// For how many seconds the first owner lives on.
    alive: &'a str,
    /// How often.
    rounds: usize,
}

impl<'a> Telling<'a> {
    /// Once, with the two owners' starts further apart than a tick (10 ms), in which `/proc` tells start times.
    fn once(first: &'a str, uid: u32) -> Self {
        let (alive, rounds) = ("0.05", 1);
        Self {
            first,
            uid,
            alive,
            rounds,
        }
    }
}

/// What was said, and how many signatures the guard recorded.
fn story(world: &World, telling: &Telling<'_>) -> Result<(String, usize)> {
    // User and cgroup, so that nothing but the process itself differs.
    let both = format!(
        r#"["unix:uid:1000", "cgroup:path:{}/billing.service"]"#,
        world.cgroup_name()?
    );
    let policy = POLICY.replace(r#"["unix:uid:1000"]"#, &both);
    ensure!(policy != POLICY, "the policy has no such selector any more");
    let agent = world.agent().config(&policy).start()?;
    // Past the workload's token that the proxy keeps: each token needs a signature of its own.
    let target = format!("{TOKEN}&bypass_cache=true");
    let request = String::from_utf8(get(&target))?.replace("\r\n", "\\r\\n");
    let script = STORY.replace("@REQUEST@", &request);
    let (uid, rounds) = (telling.uid.to_string(), telling.rounds.to_string());
    let arguments = ["-c", &script, telling.first, &uid, telling.alive, &rounds];
    let root = world.workload("billing").uid(0).gid(0);
    let output = root.run(Path::new("/usr/bin/python3"), &arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout)?;
    let records = agent.audit().wait_exchanges(said.lines().count())?;
    let refused = records.iter().filter(|r| r["reason"] == "caller_changed");
    ensure!(refused.count() == telling.rounds, "{records:#?}");
    let records = agent.audit().records()?;
    let signed = records.iter().filter(|r| r["event"] == "signed");
    Ok((said, signed.count()))
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_takes_the_pid_gets_nothing_over_a_connection_that_was_never_used() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("pid-first")?;
    let (said, signed) = story(&world, &Telling::once("unasked", 1000))?;
    assert_eq!(said, "kept 403 changed\nown 200\n");
    assert_eq!(signed, 1, "for its own connection alone");
    Ok(())
}

/// In four of ten rounds both owners start in one tick of `/proc`; before 6.9 nothing else tells them apart.
#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_takes_the_pid_within_the_same_tick_gets_nothing_either() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, PidFs);
    let world = World::new("pid-tick")?;
    let telling = Telling {
        alive: "0",
        rounds: 16,
        ..Telling::once("unasked", 1000)
    };
    let (said, signed) = story(&world, &telling)?;
    assert_eq!(said, "kept 403 changed\nown 200\n".repeat(16));
    assert_eq!(signed, 16, "for their own connections alone");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_takes_the_pid_gets_nothing_over_a_connection_that_was_served_before() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("pid-kept")?;
    let (said, signed) = story(&world, &Telling::once("attested", 1000))?;
    assert_eq!(said, "connector 200\nkept 403 changed\nown 200\n");
    assert_eq!(signed, 2, "for either one's own connection alone");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_takes_the_pid_of_an_attested_process_is_attested_anew() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("pid-other")?;
    let (said, signed) = story(&world, &Telling::once("attested", 1001))?;
    assert_eq!(said, "connector 200\nkept 403 changed\nown 403\n");
    assert_eq!(signed, 1, "for the connector");
    Ok(())
}
