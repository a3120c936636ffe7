//! The kernel ends the agent for want of memory: as any other death. Its cgroup of that kind is the test's own, with a process in it
//! that takes all that there is; the guard is the first that the kernel is to choose.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use imds_guard_tests::{Cgroup, World};

use super::steps::has_ended;
use super::{Gets, asks, billing, config, neighbour, soon, world};

/// More than both processes hold.
const LIMIT: &str = "100663296";

/// A cgroup with a limit, below our own one; of version 2, or of version 1 where that has the memory controller.
struct Limited {
    path: PathBuf,
    /// Of version 1, made by us.
    own: bool,
}

impl Limited {
    fn new(world: &World) -> Self {
        let parent = world.cgroup();
        // Refused where our own cgroup has processes and is not the root.
        let own = Cgroup::own().unwrap();
        let _had_it_already = fs::write(own.join("cgroup.subtree_control"), "+memory");
        if fs::write(parent.join("cgroup.subtree_control"), "+memory").is_ok() {
            let path = world.cgroup_below("agent").unwrap();
            fs::write(path.join("memory.max"), LIMIT).unwrap();
            return Self { path, own: false };
        }
        let path = version_one().join(parent.file_name().unwrap());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("memory.limit_in_bytes"), LIMIT).unwrap();
        Self { path, own: true }
    }

    fn take(&self, pid: u32) {
        if self.own {
            fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// How many the kernel has ended here.
    fn ended(&self) -> u64 {
        let file = if self.own {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let text = fs::read_to_string(self.path.join(file)).unwrap();
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "));
        lines.next().unwrap().parse().unwrap()
    }

    /// Takes memory without end, in here.
    fn eat(&self, world: &World) -> Child {
        let script =
            r#"echo 0 > "$0/cgroup.procs" && exec dd if=/dev/zero of=/dev/null bs=400M count=1"#;
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(&self.path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        world.enter(move || Ok(command.spawn()?)).unwrap()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if self.own {
            soon(
                Duration::from_secs(5),
                || format!("{} is empty", self.path.display()),
                || fs::remove_dir(&self.path).is_ok(),
            );
        }
    }
}

/// Our own place among the memory controller's cgroups of version 1.
fn version_one() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is = |line: &&str| {
        line.contains(" - cgroup ") && line.ends_with(",memory") || line.ends_with(" rw,memory")
    };
    let mount = mounts
        .lines()
        .find(is)
        .expect("no memory controller, of neither version");
    let fields: Vec<&str> = mount.split(' ').collect();
    let all = fs::read_to_string("/proc/self/cgroup").unwrap();
    let named = |line: &str| Some(line.split_once(":memory:")?.1.to_owned());
    let ours = all.lines().find_map(named).unwrap();
    let below = ours
        .strip_prefix(fields[3])
        .unwrap_or(&ours)
        .trim_start_matches('/');
    PathBuf::from(fields[4]).join(below)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn ended_for_want_of_memory_it_leaves_refusal_or_nothing_and_the_next_one_serves() {
    for (mode, away, granted) in [
        ("enforce", Gets::Refused, Gets::Served),
        ("audit", Gets::Untouched, Gets::Served),
        ("observe", Gets::Untouched, Gets::Untouched),
    ] {
        let world = world("memory");
        let _azure = world.azure().unwrap();
        let limited = Limited::new(&world);
        let agent = world.agent().config(&config(mode)).start().unwrap();
        assert_eq!(asks(&billing(&world)), granted, "{mode}");
        limited.take(agent.pid());
        fs::write(format!("/proc/{}/oom_score_adj", agent.pid()), "1000").unwrap();
        let mut eats = limited.eat(&world);
        soon(
            Duration::from_secs(60),
            || format!("{mode}: the guard is ended"),
            || has_ended(agent.pid()),
        );
        let _ended_itself = eats.kill();
        eats.wait().unwrap();
        assert!(limited.ended() > 0, "{mode}: by somebody else");
        for who in [billing(&world), neighbour(&world)] {
            soon(
                Duration::from_secs(5),
                || format!("{mode}: its proxy ends, too"),
                || asks(&who) == away,
            );
        }
        drop(agent);
        let _agent = world.agent().config(&config(mode)).start().unwrap();
        assert_eq!(asks(&billing(&world)), granted, "{mode}");
    }
}
