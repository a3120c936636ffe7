//! Docker: containers are told apart by the cgroup that it makes for each, in whichever network namespace they are, while it is
//! started anew, while the guard is, and while its rules go and come.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{UPSTREAM_TOKEN, World, patience, require};

use super::Scene;
use crate::VAULT;

const DAEMON: &str = r#"{ "storage-driver": "vfs", "live-restore": true, "ip6tables": false }"#;

/// An image of busybox and curl, made here: no registry is asked.
const IMAGE: &str = r"mkdir -p /run/app/bin /run/app/ask && cp /bin/busybox /run/app/bin/ && ln -s busybox /run/app/bin/sh &&
    cp -L --parents /usr/bin/curl $(ldd /usr/bin/curl | grep -o '/[^ ]*') /run/app/ && tar -C /run/app -c . | docker import - app";

/// Asks when it is told to; the engine has no part in it, so that it may be away.
const WAITS: &str = r#"while :; do
    if busybox rm /ask/go 2>/dev/null; then
        /usr/bin/curl -sS -m 5 -f -o /ask/body -H "Metadata: true" "$0" 2>/ask/error; echo $? >/ask/code
        busybox mv /ask/code /ask/ended
    fi
    busybox usleep 50000
done"#;

const RULES: &str = r#"
[[workload]]
name = "containers"
any_of = [["systemd:slice:billing.slice"]]

[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"
"#;

struct Container {
    name: &'static str,
    id: String,
    directory: PathBuf,
}

impl Container {
    fn start(scene: &Scene<'_>, name: &'static str, options: &[&str]) -> Result<Self> {
        let directory = scene.machine.root().join("run/ask").join(name);
        fs::create_dir_all(&directory)?;
        let mounted = format!("/run/ask/{name}:/ask");
        let url = format!("http://169.254.169.254{VAULT}");
        let mut words = vec!["docker", "run", "-d", "--name", name, "-v", &mounted];
        words.extend(options);
        words.extend(["app", "/bin/sh", "-c", WAITS, &url]);
        let id = scene.machine.must(&words);
        let id = id.with_context(|| scene.machine.journal("docker*"))?;
        Ok(Self {
            name,
            id,
            directory,
        })
    }

    /// `true`: it has its token. `false`: it was refused, or reached nobody.
    fn gets(&self) -> Result<bool> {
        let body = self.asks()?;
        Ok(
            body.is_some_and(|body| {
                body.contains("access_token") && !body.contains(UPSTREAM_TOKEN)
            }),
        )
    }

    /// Whether it has the real service's answer.
    fn reaches(&self) -> Result<bool> {
        Ok(self
            .asks()?
            .is_some_and(|body| body.contains(UPSTREAM_TOKEN)))
    }

    fn asks(&self) -> Result<Option<String>> {
        let ended = self.directory.join("ended");
        fs::write(self.directory.join("go"), "")?;
        let until = Instant::now() + patience(Duration::from_secs(12));
        while !ended.exists() {
            ensure!(Instant::now() < until, "{} doesn't answer", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let (code, body, error) = (fs::read_to_string(&ended)?, read("body"), read("error"));
        fs::remove_file(&ended)?;
        let _none_written = fs::remove_file(self.directory.join("body"));
        if code.trim() == "0" {
            return Ok(Some(body));
        }
        let told = ["403", "Failed to connect", "Couldn't connect", "timed out"];
        ensure!(
            told.iter().any(|word| error.contains(word)),
            "{}: {error}",
            self.name
        );
        Ok(None)
    }
}

struct Containers<'s, 'w> {
    scene: &'s Scene<'w>,
    all: [Container; 6],
}

impl Containers<'_, '_> {
    /// Who of them has a token; the host's units and the guest as ever.
    fn hold(&self, state: &str, wanted: [bool; 6]) -> Result<()> {
        for (container, wanted) in self.all.iter().zip(wanted) {
            let got = container.gets()?;
            ensure!(
                got == wanted,
                "{state}: {}: {got}\n{}",
                container.name,
                self.scene.machine.journal("imds-guard*")
            );
        }
        self.scene.holds(state)
    }
}

/// By their slice: one of each pair.
const HALF: [bool; 6] = [true, false, true, false, true, false];

fn containers<'s, 'w>(scene: &'s Scene<'w>) -> Result<Containers<'s, 'w>> {
    scene.must("systemctl start docker.service")?;
    scene.machine.must(&["sh", "-ec", IMAGE])?;
    let start = |name, options: &[&str]| Container::start(scene, name, options);
    let parent = "--cgroup-parent=billing.slice";
    let all = [
        start("bridge-granted", &[parent])?,
        start("bridge-other", &[])?,
        start("host-granted", &["--network=host", parent])?,
        start("host-other", &["--network=host"])?,
        start("none-granted", &["--network=none", parent])?,
        start("none-other", &["--network=none"])?,
    ];
    for (at, container) in all.iter().enumerate() {
        let slice = if at % 2 == 0 {
            "billing.slice"
        } else {
            "system.slice"
        };
        let scope = format!("/{slice}/docker-{}.scope", container.id);
        let pid = scene.must(&format!(
            "docker inspect --format {{{{.State.Pid}}}} {}",
            container.name
        ))?;
        let cgroup = scene.must(&format!("cat /proc/{pid}/cgroup"))?;
        ensure!(cgroup.ends_with(&scope), "{cgroup}, not {scope}");
    }
    Ok(Containers { scene, all })
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn dockers_containers_are_told_apart_by_their_cgroups_whoever_is_started_anew() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, Nft);
    let world = World::with_cloud("docker")?;
    let scene = Scene::boot(&world, RULES, &[("etc/docker/daemon.json", DAEMON)])?;
    let containers = containers(&scene)?;
    for (container, reaches) in containers
        .all
        .iter()
        .zip([true, true, true, true, false, false])
    {
        ensure!(container.reaches()? == reaches, "{}", container.name);
    }
    scene.forget();
    scene.guard_starts()?;
    containers.hold("docker first", HALF)?;
    scene.must("systemctl restart docker.service")?;
    containers.hold("docker anew", HALF)?;
    scene.must("systemctl kill --signal=HUP --kill-who=main docker.service")?;
    scene.guard_restarts()?;
    containers.hold("the guard anew", HALF)?;
    // By a container's own cgroup, instead.
    let own = format!(
        "cgroup:path:/system.slice/docker-{}.scope",
        containers.all[1].id
    );
    let policy = Scene::policy(&RULES.replace("systemd:slice:billing.slice", &own));
    scene.machine.configure(&policy)?;
    crate::reload(&scene.machine, "policy reloaded");
    containers.hold(
        "by its own scope",
        [false, true, false, false, false, false],
    )?;
    scene.machine.configure(&Scene::policy(RULES))?;
    scene.must("systemctl restart imds-guard.service")?;
    scene.machine.wait_active(crate::PROXY, "")?;
    // Its rules are gone, and come again.
    scene.flushed()?;
    containers.hold("without docker's rules", HALF)?;
    scene.must("systemctl stop docker.socket docker.service")?;
    containers.hold("without docker", HALF)?;
    scene.must("systemctl start docker.service")?;
    containers.hold("with docker's rules again", HALF)?;
    // With both, each of which reloads the other.
    scene.must("systemctl start firewalld.service")?;
    scene.must("firewall-cmd --complete-reload")?;
    containers.hold("beside firewalld as well", HALF)?;
    scene.must("systemctl stop imds-guard.service imds-guard-proxy.service")?;
    for container in &containers.all {
        ensure!(!container.gets()?, "{}", container.name);
    }
    scene.nothing_passed("with the guard away")?;
    // The guard first.
    scene.must("systemctl stop docker.socket docker.service firewalld.service")?;
    scene.guard_starts()?;
    scene.must("systemctl start docker.service")?;
    containers.hold("the guard first", HALF)
}
