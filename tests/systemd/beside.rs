//! Beside others that write the packet filter's rules, with Debian's packages of them: firewalld, Docker, and nftables' own
//! service, which flushes everything. In both orders, and after a reload and a restart of each, all get what they got before.

mod docker;

use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{FakeAzure, Space, UPSTREAM_TOKEN, World, claims, patience, require};
use serde_json::Value;

use crate::machine::{Machine, text};
use crate::{GUARD, POLICY, PROXY, VAULT};

/// A guest behind an interface of its own may have its token, as well as the unit that the policy names.
const GUEST: &str = r#"
[[guest]]
interface = "tw-s0"
id = "build"

[[workload]]
name = "build"
selectors = ["vm:id:build"]

[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"
"#;

/// One machine, what is on it, and what is around it.
struct Scene<'w> {
    azure: FakeAzure,
    machine: Machine,
    guest: Space,
    stranger: Space,
    _world: &'w World,
    /// How often the real service had been asked when the guard began.
    asked: AtomicUsize,
}

impl<'w> Scene<'w> {
    /// Nothing runs yet, and the real service answers everybody.
    fn boot(world: &'w World, rules: &str, more: &[(&str, &str)]) -> Result<Self> {
        let azure = world.azure()?;
        let (guest, stranger) = (world.container()?, world.container()?);
        let policy = Self::policy(rules);
        let machine = Machine::boot_beside_others(world, &policy, more)?;
        let scene = Self {
            azure,
            machine,
            guest,
            stranger,
            _world: world,
            asked: AtomicUsize::new(0),
        };
        for space in [&scene.guest, &scene.stranger] {
            let (code, body) = scene.from(space)?;
            ensure!(code == "200" && body.contains(UPSTREAM_TOKEN), "{body}");
        }
        scene.forget();
        Ok(scene)
    }

    /// What the real service was asked so far was meant to reach it.
    fn forget(&self) {
        self.asked.store(self.azure.received().len(), Relaxed);
    }

    /// The configuration, with these rules in it.
    fn policy(rules: &str) -> String {
        format!("{POLICY}{GUEST}{rules}")
    }

    fn must(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split(' ').collect();
        let done = self.machine.must(&words);
        done.with_context(|| self.machine.journal("*"))
    }

    fn guard_starts(&self) -> Result<()> {
        self.must(&format!("systemctl start {GUARD} {PROXY}"))
            .map(drop)
    }

    fn guard_goes(&self) -> Result<()> {
        self.must(&format!("systemctl stop {GUARD} {PROXY}"))?;
        self.must("imds-guard teardown").map(drop)
    }

    /// The guard is started anew, and serves again.
    fn guard_restarts(&self) -> Result<()> {
        let proxy = self.machine.main_pid(PROXY)?;
        self.must(&format!("systemctl restart {GUARD}"))?;
        self.machine.wait_active(PROXY, &proxy).map(drop)
    }

    /// The token's answer in another network namespace, as a guest's own kernel would ask.
    fn from(&self, space: &Space) -> Result<(String, String)> {
        let net = format!("--net={}", space.path());
        let url = format!("http://169.254.169.254{VAULT}");
        let limit = format!("{:.1}", patience(Duration::from_millis(800)).as_secs_f32());
        let curl = ["curl", "-s", "-m", &limit, "-H", "Metadata: true"];
        let output = Command::new("nsenter")
            .arg(net)
            .args(curl)
            .args(["-w", "\n%{http_code}", &url])
            .output()
            .context("nsenter")?;
        let said = text(&output);
        let (body, code) = said.rsplit_once('\n').unwrap_or(("", &said));
        Ok((code.to_owned(), body.to_owned()))
    }

    /// What the guest gets: its own name, or the code of curl's that says that it got none.
    fn guest(&self) -> Result<String> {
        let (code, body) = self.from(&self.guest)?;
        if code != "200" {
            return Ok(code);
        }
        let answer: Value = serde_json::from_str(&body)?;
        let token = answer["access_token"].as_str().context("no token")?;
        let sub = claims(token)?["sub"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(sub.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Each gets what is its own, and the real service hears of none of it.
    fn holds(&self, state: &str) -> Result<()> {
        // At once: one of them waits until it has given up.
        let gets = std::thread::scope(|scope| {
            let stranger = scope.spawn(|| self.from(&self.stranger));
            let web = scope.spawn(|| self.machine.ask("web", VAULT));
            let billing = self.machine.ask("billing", VAULT)?.0;
            let guest = self.guest()?;
            let [web, stranger] = [web, stranger].map(|asks| asks.join().expect("curl"));
            anyhow::Ok([billing, web?.0, guest, stranger?.0])
        })?;
        ensure!(
            gets == ["200", "403", "build", "000"],
            "{state}: {gets:?}\n{}\n{}",
            self.machine.must(&["nft", "list", "ruleset"])?,
            self.machine.journal("imds-guard*")
        );
        self.nothing_passed(state)
    }

    fn nothing_passed(&self, state: &str) -> Result<()> {
        let asked = &self.azure.received()[self.asked.load(Relaxed)..];
        ensure!(asked.is_empty(), "{state}: {asked:?}");
        Ok(())
    }

    /// Which of what was in force somebody has changed, as the record says it.
    fn drifts(&self) -> Result<Vec<String>> {
        let path = self.machine.root().join("var/log/imds-guard/audit.jsonl");
        let mut found = vec![];
        for line in std::fs::read_to_string(path)?.lines() {
            let line: Value = serde_json::from_str(line)?;
            if line["event"] == "drift" {
                ensure!(line["failed"].is_null(), "{line}");
                found.push(format!("{} {}", line["what"], line["change"]));
            }
        }
        Ok(found)
    }

    /// What nftables' own service does at a reload: flushes everything. It is back within a second, and recorded.
    fn flushed(&self) -> Result<()> {
        let before = self.drifts()?.len();
        let began = Instant::now();
        self.must("systemctl restart nftables.service")?;
        while self.drifts()?[before..]
            .iter()
            .filter(|d| d.contains("rules_changed"))
            .count()
            < 2
        {
            ensure!(
                began.elapsed() < patience(Duration::from_secs(1)) + Duration::from_secs(1),
                "not noticed: {:?}",
                self.drifts()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.holds("after a flush")
    }
}

/// The reloads and the restart that firewalld knows.
const FIREWALLD: [&str; 3] = [
    "firewall-cmd --reload",
    "firewall-cmd --complete-reload",
    "systemctl restart firewalld.service",
];

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn firewalld_takes_nothing_away_in_either_order_nor_by_a_reload() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent, Nft);
    let world = World::with_cloud("firewalld")?;
    let scene = Scene::boot(&world, "", &[])?;
    scene.must("systemctl start firewalld.service")?;
    scene.guard_starts()?;
    scene.holds("firewalld first")?;
    for again in FIREWALLD {
        scene.must(again)?;
        scene.holds(again)?;
    }
    scene.guard_restarts()?;
    scene.holds("the guard anew")?;
    // Its strictest zone, for the interface itself: what was redirected is let in before any zone is asked.
    scene.must("firewall-cmd --zone=drop --change-interface=tw-s0")?;
    scene.holds("in the zone drop")?;
    let own = scene.must("nft list chain inet firewalld filter_INPUT")?;
    let place = |word: &str| own.find(word).with_context(|| own.clone());
    ensure!(
        place("ct status dnat accept")? < place("jump filter_INPUT_ZONES")?,
        "{own}"
    );

    scene.guard_goes()?;
    scene.must("systemctl stop firewalld.service")?;
    scene.guard_starts()?;
    scene.must("systemctl start firewalld.service")?;
    scene.holds("the guard first")?;
    for again in FIREWALLD {
        scene.must(again)?;
        scene.holds(again)?;
    }
    // It leaves tables that aren't its own alone.
    ensure!(scene.drifts()?.is_empty(), "{:?}", scene.drifts());
    scene.flushed()?;
    scene.must("systemctl restart firewalld.service")?;
    scene.holds("after both")
}
