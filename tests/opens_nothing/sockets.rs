//! What becomes of single sockets: noted, confined still, of MPTCP.

use crate::filter::{Filter, Passes};
use crate::table::{DENIES, HOST, Installed, Resident, Subject, policy};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::{Outcome, World, require};
use nix::sys::signal::Signal;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

const PYTHON: &str = "/usr/bin/python3";

/// Dials the metadata service from a socket bound as its arguments say, disconnects, and dials a local service, then the
/// metadata service again. Prints what became of each: 0 or an errno.
const REUSES: &str = r#"
import ctypes, errno, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket()
if sys.argv[1]:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
def dial(to):
    try:
        s.connect(to)
        return "connected"
    except OSError as e:
        return errno.errorcode[e.errno]
def hang_up():
    assert libc.connect(s.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) == 0
print(dial(("169.254.169.254", 80)))
hang_up()
print(dial(("127.0.0.1", 7777)))
hang_up()
print(dial(("169.254.169.254", 80)))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_is_confined_to_a_device_is_not_set_free_by_dialling_us() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("confined")?;
    let _azure = world.azure()?;
    let _local = world.enter(|| TcpListener::bind("127.0.0.1:7777").context("a local service"))?;
    let _agent = Installed::new(&world, "enforce", true)?;
    let root = world.workload("root").uid(0);
    for (device, wanted) in [
        ("tw-up", "connected\nEACCES\nconnected\n"),
        ("", "connected\nconnected\nconnected\n"),
    ] {
        let output = root.run(Path::new(PYTHON), &["-c", REUSES, device])?;
        let said = String::from_utf8(output.stdout)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, wanted, "{device}: {error}");
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_can_not_be_steered_is_noted_with_the_reason() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("noted")?;
    let azure = world.azure()?;
    let filtered = Subject::new(world.workload("filtered"));
    let _filter = Filter::on(&filtered.workload.cgroup()?, Passes::Only)?;
    let bound = Subject::with(world.workload("bound"), "--device=tw-up");
    let told = |wanted: &[&str], installed: &Installed<'_>| -> Result<()> {
        let records = installed.agent.audit().wait(wanted.len())?;
        let noted: Vec<_> = records
            .iter()
            .map(|r| format!("{} {} {}", r["event"], r["mode"], r["reason"]).replace('"', ""))
            .collect();
        assert_eq!(noted, wanted);
        Ok(())
    };
    let mut installed = Installed::new(&world, "audit", false)?;
    for subject in [&filtered, &bound] {
        assert_eq!(subject.attempt(&azure)?, Outcome::Obtained(HOST));
    }
    installed.change("enforce", true)?;
    let Outcome::Nothing(error) = bound.attempt(&azure)? else {
        anyhow::bail!("steered")
    };
    ensure!(error.contains("Permission denied"), "{error}");
    // Steered, and its own filter drops what is sent to the loopback.
    let Outcome::Nothing(error) = filtered.attempt(&azure)? else {
        anyhow::bail!("served")
    };
    ensure!(error.contains("timed out"), "{error}");
    let wanted = [
        "observed audit filtered",
        "observed audit bound_to_device",
        "observed enforce bound_to_device",
        "observed enforce never_arrived",
    ];
    told(&wanted, &installed)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_connection_kept_from_enforce_into_audit_gets_no_further_than_its_caller() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("kept")?;
    let azure = world.azure()?;
    let stopped = world.workload("stopped");
    let _filter = Filter::on(&stopped.cgroup()?, Passes::AllBut)?;
    let mut installed = Installed::new(&world, "enforce", true)?;
    let mut kept: Vec<_> = [&stopped, &world.workload("host")]
        .into_iter()
        .map(|workload| workload.connect(imds_guard_tests::AZURE_IMDS))
        .collect::<Result<_>>()?;
    let mut ask = |wanted: [u16; 2]| -> Result<()> {
        for (caller, wanted) in kept.iter_mut().zip(wanted) {
            caller.send(crate::table::request().as_bytes())?;
            assert_eq!(caller.response()?.status, wanted);
        }
        Ok(())
    };
    ask([200, 200])?;
    installed.change("audit", true)?;
    ask([502, 200])?;
    assert_eq!(azure.received().len(), 3);
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_a_live_listener_audit_passes_a_container_untouched_and_enforce_refuses_it() -> Result<()>
{
    require!(Root, Cgroup2, Bpf, Agent);
    for (mode, passes) in [("audit", true), ("enforce", false)] {
        let world = World::with_cloud("away")?;
        let azure = world.azure()?;
        let container = world.container()?;
        let pod = Subject::new(world.workload("pod").in_space(&container));
        let address = container.address().map(IpAddr::V4).context("no address")?;
        let sleeps = pod.workload.spawn(Path::new("/usr/bin/sleep"), &["600"])?;
        let _resident = Resident(sleeps);
        let mut installed = Installed::new(&world, mode, true)?;
        let seen = if passes { address } else { HOST };
        assert_eq!(pod.attempt(&azure)?, Outcome::Obtained(seen), "{mode}");
        let proxy = installed.agent.children();
        installed.agent.signal(Signal::SIGKILL)?;
        installed.agent.wait_end(Duration::from_secs(5))?;
        for pid in proxy {
            ended(pid)?;
        }
        match pod.attempt(&azure)? {
            Outcome::Obtained(from) if passes => assert_eq!(from, address),
            Outcome::Nothing(error) if !passes => assert!(error.contains("refused"), "{error}"),
            other => anyhow::bail!("{mode}: {other:?}"),
        }
    }
    Ok(())
}

/// Waits until a process that was told to end has.
fn ended(pid: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
        ensure!(Instant::now() < deadline, "{pid} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A device is for everybody to choose: it must not be a way past a deny. Filters are the administrator's.
#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn nobody_escapes_an_enforced_deny_in_audit_by_a_device() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("escape")?;
    let azure = world.azure()?;
    let plain = Subject::new(world.workload("plain"));
    let bound = Subject::with(world.workload("bound"), "--device=tw-up");
    let mut installed = Installed::new(&world, "audit", false)?;
    for subject in [&plain, &bound] {
        assert_eq!(subject.attempt(&azure)?, Outcome::Obtained(HOST));
    }
    installed.change_to(&format!("{}{DENIES}", policy("audit", false)))?;
    assert_eq!(plain.attempt(&azure)?, Outcome::Nothing("403".into()));
    let Outcome::Nothing(error) = bound.attempt(&azure)? else {
        anyhow::bail!("escaped")
    };
    ensure!(error.contains("Permission denied"), "{error}");
    Ok(())
}
