//! What a machine can lack, through the real binary: one line that says what to do, the documented exit code, and nothing
//! left behind: no pin, no program in force, no cgroup, no socket. Then, with the lack mended, the same world starts.

use super::{policy, soon};
use anyhow::Result;
use imds_guard_tests::{AZURE_IMDS, World, binary, require};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A start that is to fail: `run` in the world's namespaces, with what differs from a start that succeeds.
struct Start<'w> {
    world: &'w World,
    config: PathBuf,
    cgroup: PathBuf,
    root: PathBuf,
    pins: PathBuf,
    /// Shell, run in a mount namespace of this start's own.
    before: String,
}

impl<'w> Start<'w> {
    fn new(world: &'w World) -> Result<Self> {
        let config = world.directory().join("etc/imds-guard.toml");
        std::fs::write(&config, policy(1001))?;
        Ok(Self {
            world,
            config,
            cgroup: world.cgroup_below("agent")?,
            root: world.cgroup().into(),
            pins: world.directory().join("bpf/imds-guard"),
            before: "true".into(),
        })
    }

    fn run(&self, proxy: &str) -> Result<Output> {
        let directory = self.world.directory();
        let program = self.world.show(&binary("imds-guard")?, "imds-guard");
        let mut command = Command::new("unshare");
        let script = format!(
            r#"echo 0 > "$0/cgroup.procs" && {} && exec "$@""#,
            self.before
        );
        // The limit: a guard that starts after all would never end.
        let limited = ["timeout", "--kill-after=1", "10"];
        command.args(["--mount", "sh", "-c", &script]);
        command.arg(&self.cgroup).args(limited);
        command.arg(program?).args(["run", "--proxy", proxy]);
        command.arg("--config").arg(&self.config);
        command.arg("--state-dir").arg(directory.join("state"));
        command.arg("--run-dir").arg(directory.join("run"));
        command.arg("--cgroup-root").arg(&self.root);
        command.arg("--pin-dir").arg(&self.pins);
        command.args(["--proxy-user", "nobody"]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null());
        self.world.enter(|| Ok(command.output()?))
    }

    /// Refused with `code` and a line with `remedy`, whoever was to start the proxy; and the host is as it was.
    #[track_caller]
    fn refused(&self, code: i32, remedy: &str) -> Result<()> {
        for proxy in ["spawn", "socket"] {
            let before = (directories(self.world.cgroup())?, sockets(self.world)?);
            let output = self.run(proxy)?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{proxy}: {said}");
            assert_eq!(said.lines().count(), 1, "{proxy}: {said}");
            assert!(said.contains(remedy), "{proxy}: {said}");
            let after = (directories(self.world.cgroup())?, sockets(self.world)?);
            assert_eq!(after, before, "{proxy}");
            self.unguarded()?;
        }
        Ok(())
    }

    /// No pin, and a connection to the metadata address reaches who listens there, as if there were no agent.
    #[track_caller]
    fn unguarded(&self) -> Result<()> {
        let bpf = self.world.directory().join("bpf");
        let pins = self.world.enter(|| directories(&bpf))?;
        assert_eq!(pins, Vec::<PathBuf>::new());
        assert!(!self.pins.exists(), "{}", self.pins.display());
        let real = self.world.enter(|| Ok(TcpListener::bind(AZURE_IMDS)?))?;
        real.set_nonblocking(true)?;
        let caller = self.world.workload("billing").uid(1001);
        let _connected = caller.connect(AZURE_IMDS)?;
        assert!(real.accept().is_ok(), "steered away");
        Ok(())
    }

    /// The positive twin: nothing is lacking, so it starts and serves.
    #[track_caller]
    fn mended(&self) -> Result<()> {
        let _agent = self.world.agent().config(&policy(1001)).start()?;
        soon(self.world, Some(200));
        Ok(())
    }
}

fn directories(below: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(below)?.flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        // Of the caller that asks whether it is steered, not of the agent.
        .filter(|path| !path.ends_with("billing.service"))
        .collect();
    found.sort();
    Ok(found)
}

fn sockets(world: &World) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(world.directory().join("run"))?;
    let sockets = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    Ok(sockets.map(|entry| entry.path()).collect())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn no_bpffs_where_the_pins_go() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("no-bpffs").unwrap();
    let mut start = Start::new(&world).unwrap();
    start.pins = world.directory().join("etc/pins");
    start.refused(3, "mount -t bpf").unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_attach_root_that_is_no_cgroup2() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("no-cgroup-root").unwrap();
    let mut start = Start::new(&world).unwrap();
    start.root = world.directory().join("etc");
    start.refused(3, "--cgroup-root").unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn no_cgroup2_mounted() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("no-cgroup2").unwrap();
    let mut start = Start::new(&world).unwrap();
    // In a mount namespace that ends with this start: the machine's own mount stays.
    start.before = "for m in $(sed -n 's/ - cgroup2 .*//p' /proc/self/mountinfo | cut -d' ' -f5); do umount -l $m; done".into();
    start.refused(3, "mount -t cgroup2").unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_agent_outside_of_its_attach_root() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("outside").unwrap();
    let mut start = Start::new(&world).unwrap();
    start.root = world.cgroup_below("elsewhere.slice").unwrap();
    start.refused(3, "attach higher up").unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn somebody_elses_pin_directory() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("pins-of-another").unwrap();
    let start = Start::new(&world).unwrap();
    world
        .enter(|| {
            std::fs::create_dir_all(&start.pins)?;
            Ok(chown(&start.pins, Some(1000), Some(1000))?)
        })
        .unwrap();
    let output = start.run("spawn").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("owned by uid 1000"), "{said}");
    let pins = || Ok(std::fs::read_dir(&start.pins)?.count());
    assert_eq!(world.enter(pins).unwrap(), 0, "{said}");
    world
        .enter(|| Ok(chown(&start.pins, Some(0), Some(0))?))
        .unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_listeners_port_is_taken() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("port").unwrap();
    let start = Start::new(&world).unwrap();
    for address in ["127.0.0.1:8788", "[::1]:8788"] {
        let _taken = world.enter(|| Ok(TcpListener::bind(address)?)).unwrap();
        start.refused(1, "--port").unwrap();
    }
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_issuers_port_is_taken() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("issuer-port").unwrap();
    let start = Start::new(&world).unwrap();
    let listening = policy(1001).replace("[issuer]", "[issuer]\nlisten = \"127.0.0.1:8787\"");
    std::fs::write(&start.config, &listening).unwrap();
    let taken = world
        .enter(|| Ok(TcpListener::bind("127.0.0.1:8787")?))
        .unwrap();
    start.refused(1, "[issuer]").unwrap();
    drop(taken);
    let _agent = world.agent().config(&listening).start().unwrap();
    soon(&world, Some(200));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_clock_before_the_keys_time() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("clock").unwrap();
    let start = Start::new(&world).unwrap();
    start.mended().unwrap();
    teardown(&start).unwrap();
    let file = world.directory().join("state/issuer-key.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut key: serde_json::Value = serde_json::from_str(&text).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let later = now + Duration::from_secs(3600);
    key["created"] = later.as_secs().into();
    std::fs::write(&file, key.to_string()).unwrap();
    start.refused(1, "set the clock").unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), key.to_string());
    std::fs::write(&file, &text).unwrap();
    start.mended().unwrap();
}

/// What a former run left in force, removed as an operator removes it.
fn teardown(start: &Start<'_>) -> Result<()> {
    let program = start.world.show(&binary("imds-guard")?, "imds-guard");
    let mut command = Command::new(program?);
    command.arg("teardown").arg("--pin-dir").arg(&start.pins);
    let output = start.world.enter(|| Ok(command.output()?))?;
    assert!(output.status.success(), "{output:?}");
    start.unguarded()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_state_directory_on_a_read_only_file_system() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("read-only").unwrap();
    let mut start = Start::new(&world).unwrap();
    let state = world.directory().join("state");
    start.before = format!(
        "mount --bind {0} {0} && mount -o remount,bind,ro {0}",
        state.display()
    );
    start.refused(1, "--state-dir").unwrap();
    start.mended().unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_configuration_that_others_hold_in_their_hands() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("custody").unwrap();
    let mut start = Start::new(&world).unwrap();
    chown(&start.config, Some(1000), None).unwrap();
    start.refused(2, "chown root").unwrap();
    chown(&start.config, Some(0), None).unwrap();
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&start.config, permissions).unwrap();
    };
    mode(0o666);
    start.refused(2, "chmod go-w").unwrap();
    mode(0o644);
    let link = world.directory().join("etc/link.toml");
    symlink(&start.config, &link).unwrap();
    let file = std::mem::replace(&mut start.config, link);
    start.refused(2, "name the file itself").unwrap();
    start.config = file;
    start.mended().unwrap();
}
