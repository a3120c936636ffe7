//! Lies about who one is: names, files, namespaces, headers, ports and sockets that were somebody else's. Each is told by a real
//! process through the loaded programs, beside one that tells the truth.

use anyhow::{Result, ensure};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, Workload, World, require};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::{POLICY, TOKEN, agent, get, python};

/// An agent that grants a token to whoever has these selectors.
fn granting(world: &World, selectors: &str) -> Result<AgentProcess> {
    let policy = POLICY.replace(r#"["unix:uid:1000"]"#, selectors);
    assert_ne!(policy, POLICY, "the policy has no such selector any more");
    world.agent().config(&policy).start()
}

/// Root, in a cgroup of this name: its scripts become whoever they play.
fn root<'w>(world: &'w World, cgroup: &str) -> Workload<'w> {
    world.workload(cgroup).uid(0).gid(0)
}

/// The connector says `asks as UID` of itself; who gets the descriptor asks over it.
const HANDED: &str = r#"
connector, asker = int(sys.argv[1]), int(sys.argv[2])
here, there = socket.socketpair()
child = os.fork()
if child == 0:
    become(connector)
    here.close()
    s = connect()
    there.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
    there.recv(1)
    os._exit(0)
there.close()
_, ancillary, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
kept = array.array("i", ancillary[0][2])[0]
become(asker)
kept = socket.socket(fileno=kept)
kept.settimeout(5)
say(ask(kept), ask(connect()))
# Without being given one: the descriptor of another's process.
libc = ctypes.CDLL(None, use_errno=True)
pidfd = libc.syscall(434, child, 0)
taken = [libc.syscall(438, pidfd, fd, 0) for fd in range(16)]
say("taken" if max(taken) >= 0 else "errno %d" % ctypes.get_errno())
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_descriptor_handed_on_speaks_for_who_connected_it_and_is_taken_by_nobody() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("handed")?;
    let agent = agent(&world)?;
    let root = root(&world, "both");
    // Who may not have a token doesn't get one by the hands of who may.
    let said = python(&root, HANDED, &["1001", "1000"])?;
    assert_eq!(said, "403 200\nerrno 1\n");
    // The other way it is the connector's to give: the line names the connector.
    let said = python(&root, HANDED, &["1000", "1001"])?;
    assert_eq!(said, "200 403\nerrno 1\n");
    let uids = agent.audit().wait_exchanges(4)?;
    let uids: Vec<_> = uids.iter().map(|r| r["caller"]["uid"].clone()).collect();
    assert_eq!(uids, [1001, 1000, 1000, 1001]);
    Ok(())
}

/// Makes a socket in one cgroup, moves, and connects it; then one that is of the new place alone.
const MOVED: &str = r#"
move(sys.argv[1])
made = socket.socket()
move(sys.argv[2])
become(1000)
made.connect(IMDS)
say(ask(made), ask(connect()))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_socket_made_in_one_cgroup_and_connected_in_another_is_of_neither() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("two-places")?;
    let place =
        |name: &str| -> Result<String> { Ok(world.cgroup_below(name)?.display().to_string()) };
    let (own, other) = (place("billing.service")?, place("other.service")?);
    let name = world.cgroup_name()?;
    let _agent = granting(
        &world,
        &format!(r#"["cgroup:path:{name}/billing.service"]"#),
    )?;
    let root = root(&world, "mover");
    assert_eq!(python(&root, MOVED, &[&own, &own])?, "200 200\n");
    assert_eq!(python(&root, MOVED, &[&other, &own])?, "403 200\n");
    assert_eq!(python(&root, MOVED, &[&own, &other])?, "403 403\n");
    Ok(())
}

/// Tries to get into the granted cgroup, and into one of that name in a subtree that was given to its user.
const DELEGATED: &str = r#"
granted, mine = sys.argv[1], sys.argv[2]
move(mine + "/start")
become(1000)
for place in granted, mine + "/billing.service":
    try:
        os.makedirs(place, exist_ok=True)
        move(place)
        say("moved", ask(connect()))
    except PermissionError:
        say("stays", ask(connect()))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn whose_subtree_it_is_names_no_cgroup_outside_of_it() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("delegated")?;
    let granted = world.cgroup_below("billing.service")?;
    let mine = world.cgroup_below("user.slice")?;
    let start = world.cgroup_below("user.slice/start")?;
    for own in [&mine, &start] {
        chown(own, Some(1000), Some(2000))?;
        chown(own.join("cgroup.procs"), Some(1000), Some(2000))?;
    }
    let name = world.cgroup_name()?;
    let _agent = granting(
        &world,
        &format!(r#"["cgroup:path:{name}/billing.service"]"#),
    )?;
    let (granted, mine) = (granted.display().to_string(), mine.display().to_string());
    let said = python(&root(&world, "mover"), DELEGATED, &[&granted, &mine])?;
    assert_eq!(said, "stays 403\nmoved 403\n");
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    Ok(())
}

/// Shows itself as `billing.service` to whoever reads its files: a cgroup namespace, and `/proc` files laid over its own.
const SHOWN: &str = r#"

place, name, shown = sys.argv[1:4]
move(place)
libc = ctypes.CDLL(None, use_errno=True)
# CLONE_NEWNS, CLONE_NEWCGROUP
if libc.unshare(0x00020000 | 0x02000000): sys.exit("unshare")
libc.mount(None, b"/", None, 0x44000, None)
for file, text in ("cgroup", "0::%s\n" % name), ("comm", "billing\n"):
    fake = "%s/%s" % (shown, file)
    open(fake, "w").write(text)
    if libc.mount(fake.encode(), ("/proc/%d/%s" % (os.getpid(), file)).encode(), None, 0x1000, None): sys.exit("mount " + file)
if name not in open("/proc/self/cgroup").read(): sys.exit("it doesn't show")
libc.prctl(15, b"billing", 0, 0, 0)
become(1000)
say(ask(connect()))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_a_caller_makes_its_own_files_show_is_not_what_it_is() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("shown")?;
    let place =
        |name: &str| -> Result<String> { Ok(world.cgroup_below(name)?.display().to_string()) };
    let (own, other) = (place("billing.service")?, place("other.service")?);
    let name = world.cgroup_name()?;
    let (billing, otherwise) = (
        format!("{name}/billing.service"),
        format!("{name}/other.service"),
    );
    let _agent = granting(&world, &format!(r#"["cgroup:path:{billing}"]"#))?;
    let shown = world.directory().join("etc").display().to_string();
    let root = root(&world, "liar");
    assert_eq!(python(&root, SHOWN, &[&other, &billing, &shown])?, "403\n");
    assert_eq!(python(&root, SHOWN, &[&own, &otherwise, &shown])?, "200\n");
    Ok(())
}

/// A copy of the interpreter under another name: another file, that says the same.
fn copy(world: &World, name: &str, uid: u32) -> Result<PathBuf> {
    let copy = world.directory().join("bin").join(name);
    fs::copy(Path::new("/usr/bin/python3").canonicalize()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    chown(&copy, Some(uid), None)?;
    Ok(copy)
}

/// Executes a file without a name, as `name`.
const NAMELESS: &str = r#"
name, script = sys.argv[1], sys.argv[2]
fd = os.memfd_create(os.path.basename(name), 0)
os.write(fd, open("/proc/self/exe", "rb").read())
os.execve(fd, [name, "-c", script], {})
"#;

/// Lays what it executes over the name of another, where only it sees that: in a user and mount namespace of its own.
const LAID_OVER: &str = r#"mount --bind "$0" "$1" && exec "$1" -c "$2""#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_name_of_an_executable_is_not_the_executable() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("names")?;
    let (billing, other) = (copy(&world, "billing", 0)?, copy(&world, "other", 1000)?);
    let path = |file: &Path| file.display().to_string();
    let selectors = format!(r#"["unix:uid:1000", "unix:path:{}"]"#, path(&billing));
    let _agent = granting(&world, &selectors)?;
    let who = world.workload("billing");
    let script = super::script("say(ask(connect()))");
    let said = |program: &Path, arguments: &[&str]| super::said(&who, program, arguments);
    assert_eq!(said(&billing, &["-c", &script])?, "200\n");
    assert_eq!(said(&other, &["-c", &script])?, "403\n");
    let (named, laid) = (path(&billing), path(&other));
    let nameless = super::script(NAMELESS);
    assert_eq!(said(&other, &["-c", &nameless, &named, &script])?, "403\n");
    let unshare = Path::new("/usr/bin/unshare");
    let over =
        |what: &str| ["-Urm", "sh", "-c", LAID_OVER, what, &named, &script].map(str::to_owned);
    let over = |what: &str| -> Result<String> {
        let arguments = over(what);
        said(
            unshare,
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    assert_eq!(over(&laid)?, "403\n");
    assert_eq!(over(&named)?, "200\n", "the same file is laid over itself");
    // Its name was taken from it, and given to another file, while it ran.
    let replaced = super::script(
        r#"
s = connect()
os.rename(sys.argv[1], sys.argv[2])
say(ask(s), ask(connect()))
"#,
    );
    let mine = world.directory().join("bin/of-1000");
    fs::create_dir(&mine)?;
    chown(&mine, Some(1000), None)?;
    fs::rename(&other, mine.join("other"))?;
    fs::copy(&billing, mine.join("billing"))?;
    let moved = [path(&mine.join("other")), path(&mine.join("billing"))];
    let arguments = ["-c", &replaced, &moved[0], &moved[1]];
    assert_eq!(said(&mine.join("other"), &arguments)?, "403 403\n");
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_file_that_was_written_to_is_another_by_its_digest() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("digest")?;
    let billing = copy(&world, "billing", 0)?;
    let sum = std::process::Command::new("sha256sum")
        .arg(&billing)
        .output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let _agent = granting(
        &world,
        &format!(r#"["unix:uid:1000", "unix:sha256:{sum}"]"#),
    )?;
    let who = world.workload("billing");
    let script = super::script("say(ask(connect()))");
    let said = || super::said(&who, &billing, &["-c", &script]);
    assert_eq!(said()?, "200\n");
    // What comes behind an ELF file's end is nobody's business but the digest's.
    let mut file = fs::File::options().append(true).open(&billing)?;
    std::io::Write::write_all(&mut file, b"\0")?;
    drop(file);
    assert_eq!(said()?, "403\n");
    Ok(())
}

/// Names by which proxies and clouds tell each other who asks, and none of which is evidence here.
const NAMES: [&str; 7] = [
    "X-Instance-ID: i-0123456789abcdef0",
    "X-Instance-ID-Signature: 00",
    "X-Tenant-ID: billing",
    "podns: billing",
    "podname: billing-api-0",
    "X-Remote-User: billing",
    "Authorization: Bearer canary",
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn headers_that_name_a_workload_name_nobody() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("headers")?;
    let _agent = agent(&world)?;
    for header in NAMES {
        let head = String::from_utf8(get(TOKEN))?;
        let head = head.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
        for (uid, status) in [(1001, 403), (1000, 200)] {
            let mut caller = world.workload("both").uid(uid).connect(AZURE_IMDS)?;
            caller.send(head.as_bytes())?;
            assert_eq!(caller.response()?.status, status, "{uid}: {header}");
        }
    }
    Ok(())
}

/// One after the other connects from the same port and asks, fifty times over; what each was told.
const PORT_AGAIN: &str = r#"
for _ in range(50):
    for uid in 1000, 1001:
        if os.fork() == 0:
            become(uid)
            s = connect(source=("127.0.0.1", 45000))
            say(uid, ask(s))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os._exit(0)
        os.wait()
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_comes_from_the_port_of_another_is_not_the_other() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("port-again")?;
    let _agent = agent(&world)?;
    let said = python(&root(&world, "both"), PORT_AGAIN, &[])?;
    assert_eq!(said, "1000 200\n1001 403\n".repeat(50));
    Ok(())
}

const TRANSLATION: &str = "table ip t { chain out { type nat hook output priority -100; ip daddr 127.0.0.3 tcp dport 99 dnat to 127.0.0.1:8788; }; }";

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_dials_the_listener_is_refused_and_who_is_translated_to_it_is_nobody() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("direct")?;
    let agent = agent(&world)?;
    let billing = world.workload("billing");
    for listener in ["127.0.0.1:8788", "[::1]:8788"] {
        let refused = billing.connect(listener).err().map(|e| format!("{e:#}"));
        let refused = refused.unwrap_or_default();
        assert!(refused.contains("refused"), "{listener}: {refused}");
    }
    // By translation of addresses it can be reached, in a namespace of one's own; as nobody.
    world.enter(|| {
        let made = std::process::Command::new("nft")
            .arg(TRANSLATION)
            .status()?;
        ensure!(made.success(), "nft");
        Ok(())
    })?;
    let mut caller = billing.connect("127.0.0.3:99")?;
    caller.send(&get(TOKEN))?;
    let answer = caller.response()?;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("could not be identified"));
    assert!(caller.rest()?.is_empty(), "and it is closed");
    let lines = agent.audit().wait_exchanges(1)?;
    assert!(lines.iter().all(|line| line["reason"] == "unattributed"));
    assert_eq!(billing.get(TOKEN)?.status, 200);
    Ok(())
}
