//! An agent that only observes touches no network namespace; one that begins to enforce has its listeners there first.

use anyhow::{Result, ensure};
use imds_guard_tests::{Response, Workload, World, patience, require};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{POLICY, PORT, agent, request};

/// After a socket has told whoever wants to know of this namespace: whether `lo` is up, and what a bind to the port says.
const LOOK: &str = r#"
import fcntl, socket, struct, sys, time
s = socket.socket()
time.sleep(float(sys.argv[2]))
flags = struct.unpack("16xH", fcntl.ioctl(s, 0x8913, struct.pack("16sH14x", b"lo", 0))[:18])[0]
try: s.bind(("0.0.0.0", int(sys.argv[1]))); bound = "bound"
except OSError as e: bound = "errno %d" % e.errno
print("up" if flags & 1 else "down", bound)
"#;

fn look(who: &Workload<'_>) -> Result<String> {
    let wait = patience(Duration::from_millis(500))
        .as_secs_f32()
        .to_string();
    let arguments = ["-c", LOOK, &PORT.to_string(), &wait];
    let output = who.run(Path::new("/usr/bin/python3"), &arguments)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn at_once(who: &Workload<'_>) -> Result<Response> {
    let mut caller = who.connect(imds_guard_tests::AZURE_IMDS)?;
    caller.send(request().as_bytes())?;
    caller.response()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_only_observes_changes_no_namespace_and_who_enforces_later_is_there_first() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("observed")?;
    let _azure = world.azure()?;
    let container = world.container()?;
    let inside = world.workload("billing").in_space(&container);
    // Somebody lives there, whom the agent finds at its start.
    let mut lives = inside.spawn(Path::new("/usr/bin/sleep"), &["60"])?;
    let observed = format!(
        "[endpoints]\nazure-imds = \"observe\"\nazure-wireserver = \"observe\"\nazure-hostga = \"observe\"\n{POLICY}"
    );
    let agent = agent(&world).config(&observed).start()?;
    let alone = world.workload("alone").uid(0).in_own_netns();
    assert_eq!(look(&alone)?, "down bound");
    assert_eq!(look(&inside)?, "up bound", "the port is anybody's");
    let file = world.directory().join("etc/imds-guard.toml");
    std::fs::write(file, POLICY)?;
    agent.signal(Signal::SIGHUP)?;
    // Each connect on the way there finds either the real service or a listener.
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while agent.audit().exchanges()?.is_empty() {
        assert_eq!(at_once(&inside)?.status, 200);
        ensure!(Instant::now() < deadline, "{}", agent.log());
    }
    assert_eq!(look(&alone)?, "up errno 13", "the twin");
    lives.kill()?;
    lives.wait()?;
    Ok(())
}
