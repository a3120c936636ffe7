//! `imds-guard bypass`: who is named passes, nobody else does, and it ends by itself in the kernel: with the guard there and with it
//! gone, for new connections and for those that are open.

use std::time::{Duration, Instant};

use imds_guard_tests::{AZURE_IMDS, AgentProcess, Caller, UPSTREAM_TOKEN, World, require};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Gets, TOKEN, asks, billing, config, neighbour, soon, verb, world};

const SOON: Duration = Duration::from_secs(20);

/// What the verb says, and its exit code.
fn bypass(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let at = |below: &str| world.directory().join(below).display().to_string();
    let places = [
        ("--pin-dir", at("bpf/imds-guard")),
        ("--run-dir", at("run")),
        ("--config", at("etc/imds-guard.toml")),
        ("--audit", at("audit.jsonl")),
    ];
    let places: Vec<&str> = places.iter().flat_map(|(key, at)| [*key, at]).collect();
    let output = verb(world, &[&["bypass"], arguments, &places].concat());
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Begins one; its id.
#[track_caller]
fn begun(world: &World, whom: &[&str], length: &str) -> String {
    let rest = ["--for", length, "--reason", "incident 4711"];
    let (code, said) = bypass(world, &[whom, &rest].concat());
    assert_eq!(code, Some(0), "{said}");
    let id = said.split_whitespace().nth(1).unwrap();
    id.trim_end_matches(':').to_owned()
}

/// Waits until none is in force. Not by asking: a connection that the end overtakes would hang.
#[track_caller]
fn over(world: &World) {
    soon(SOON, String::new, || {
        bypass(world, &["--list"]).1.contains("nobody")
    });
}

fn records(world: &World, event: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(world.directory().join("audit.jsonl")).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str(line).unwrap());
    all.filter(|record: &Value| record["event"] == event)
        .collect()
}

/// The turns of bypasses that the audit file tells.
fn turns(world: &World) -> Vec<String> {
    let change = |record: &Value| record["change"].as_str().unwrap().to_owned();
    records(world, "bypass").iter().map(change).collect()
}

/// A workload that policy knows by cgroup and user.
fn by_cgroup(world: &World) -> String {
    let cgroup = world.cgroup_name().unwrap();
    let selectors = format!(r#"["cgroup:path:{cgroup}/web.service", "unix:uid:1000"]"#);
    config("enforce").replace(r#"["unix:uid:1000"]"#, &selectors)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_named_workload_passes_and_nobody_else_until_it_ends_by_itself() {
    let world = world("bypass");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&by_cgroup(&world)).start().unwrap();
    let web = world.workload("web");
    let in_other_cgroup = world.workload("other");
    let other_user = world.workload("web").uid(1001).gid(3001);
    assert_eq!(asks(&web), Gets::Served);
    let asked = azure.received().len();
    let id = begun(&world, &["--workload", "billing-api"], "6s");
    let until = Instant::now() + Duration::from_secs(6);
    assert_eq!(asks(&web), Gets::Untouched);
    assert_eq!(azure.received().len(), asked + 1);
    for who in [&in_other_cgroup, &other_user] {
        assert_eq!(asks(who), Gets::Denied);
    }
    let (_, said) = bypass(&world, &["--list"]);
    assert!(
        said.contains(&id) && said.contains("incident 4711"),
        "{said}"
    );
    soon(SOON, || agent.log(), || asks(&web) == Gets::Served);
    assert!(Instant::now() > until - Duration::from_secs(1), "too early");
    soon(
        SOON,
        || agent.log(),
        || turns(&world) == ["begun", "expired"],
    );
    let begun = &records(&world, "bypass")[0];
    assert_eq!(begun["name"], "billing-api");
    assert!(
        begun["scopes"][0]
            .as_str()
            .unwrap()
            .ends_with("web.service unix:uid:1000")
    );
    // Each use is there, too.
    let uses = records(&world, "observed");
    assert!(
        uses.iter()
            .any(|used| used["reason"] == "bypassed" && used["mode"] == "enforce")
    );
    assert!(bypass(&world, &["--list"]).1.contains("nobody"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn with_the_guard_dead_it_begins_and_ends_and_is_audited() {
    let world = world("bypass-dead");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    for who in [billing(&world), neighbour(&world)] {
        assert_eq!(asks(&who), Gets::Refused);
    }
    begun(&world, &["--workload", "billing-api"], "5s");
    assert_eq!(asks(&billing(&world)), Gets::Untouched);
    assert_eq!(asks(&neighbour(&world)), Gets::Refused);
    assert_eq!(turns(&world), ["begun"]);
    // Nobody runs: the kernel ends it.
    over(&world);
    let asked = azure.received().len();
    assert_eq!(asks(&billing(&world)), Gets::Refused);
    assert_eq!(azure.received().len(), asked);
    // And by hand.
    let id = begun(&world, &["--uid", "1000"], "1h");
    assert_eq!(asks(&billing(&world)), Gets::Untouched);
    let (code, said) = bypass(&world, &["--end", &id]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(asks(&billing(&world)), Gets::Refused);
    // The guard that comes tells of the end that nobody has told of, and of the uses.
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    soon(
        SOON,
        || format!("{:?}", turns(&world)),
        || turns(&world).len() >= 4,
    );
    let used = |record: &Value| record["reason"] == "bypassed";
    soon(SOON, String::new, || {
        records(&world, "observed").iter().any(used)
    });
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_nobody_but_a_guard_can_tell_or_nobody_audits_is_refused() {
    let world = world("bypass-refused");
    let _azure = world.azure().unwrap();
    let reason = ["--for", "1m", "--reason", "x"];
    let (code, said) = bypass(&world, &[&["--uid", "1000"], &reason[..]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing is guarded"), "{said}");
    let policy = config("enforce").replace("unix:uid:1000", r#"unix:uid:1000", "unix:gid:2000"#);
    let agent = world.agent().config(&policy).start().unwrap();
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let (is, said) = bypass(&world, arguments);
        assert!(is == Some(code) && said.contains(word), "{is:?}: {said}");
        assert_eq!(asks(&billing(&world)), Gets::Served);
    };
    let with = |whom: &[&'static str]| [whom, &reason[..]].concat();
    refused(&with(&["--workload", "billing-api"]), 2, "unix:gid:2000");
    refused(&with(&["--workload", "nobody"]), 2, "no workload");
    refused(&with(&["--cgroup", "/not/there"]), 2, "no cgroup");
    refused(&["--uid", "1000", "--for", "1m"], 2, "--reason");
    refused(&["--uid", "1000", "--reason", "x"], 2, "--for");
    refused(&["--uid", "1000", "--for", "9h", "--reason", "x"], 2, "8h");
    assert_eq!(turns(&world), Vec::<String>::new());
    // A record that can't be written: nobody passes.
    let audit = world.directory().join("audit.jsonl");
    let kept = world.directory().join("kept");
    std::fs::rename(&audit, &kept).unwrap();
    std::fs::create_dir(&audit).unwrap();
    refused(&with(&["--uid", "1000"]), 1, "audit.jsonl");
    std::fs::remove_dir(&audit).unwrap();
    std::fs::rename(&kept, &audit).unwrap();
    // Twice the same: the first stays as it was.
    begun(&world, &["--uid", "1000"], "1m");
    let (code, said) = bypass(&world, &with(&["--uid", "1000"]));
    assert!(code == Some(1) && said.contains("already"), "{said}");
    assert_eq!(asks(&billing(&world)), Gets::Untouched);
    assert_eq!(turns(&world), ["begun", "begun", "ended"]);
    drop(agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn status_and_doctor_show_it() {
    let world = world("bypass-shown");
    let _azure = world.azure().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let shown = |verbs: &[&str]| {
        let at = |below: &str| world.directory().join(below).display().to_string();
        let (pins, run) = (at("bpf/imds-guard"), at("run"));
        let places = ["--json", "--pin-dir", &pins, "--run-dir", &run];
        let output = verb(&world, &[verbs, &places].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let root = world.cgroup().display().to_string();
    let doctor = ["doctor", "--cgroup-root", &root];
    let check = |told: &Value| {
        let all = told["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["check"] == "bypasses");
        found.unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(check(&shown(&doctor)), "ok");
    assert_eq!(shown(&["status"])["bypasses"], Value::Array(vec![]));
    let id = begun(&world, &["--uid", "1000"], "1m");
    assert_eq!(shown(&["status"])["bypasses"][0]["id"], id.as_str());
    assert_eq!(check(&shown(&doctor)), "weak");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_cgroup_with_all_below_it_or_a_user_be_it_root_passes() {
    let world = world("bypass-named");
    let _azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    let below = neighbour(&world).in_cgroup("web.service/below");
    let root = world.workload("x").uid(0).gid(0);
    below.cgroup().unwrap();
    let cgroup = world.cgroup().join("web.service");
    let id = begun(&world, &["--cgroup", cgroup.to_str().unwrap()], "1h");
    assert_eq!(asks(&below), Gets::Untouched);
    assert_eq!(asks(&neighbour(&world)), Gets::Refused);
    assert_eq!(bypass(&world, &["--end", &id]).0, Some(0));
    assert_eq!(asks(&below), Gets::Refused);
    // All zeroes, as a number.
    begun(&world, &["--uid", "0"], "1h");
    assert_eq!(asks(&root), Gets::Untouched);
    assert_eq!(asks(&below), Gets::Refused);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_is_only_forwarded_is_not_let_through_and_the_command_says_so() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("bypass-forwarded").unwrap();
    let azure = world.azure().unwrap();
    let container = world.container().unwrap();
    let inside = billing(&world).in_space(&container);
    assert_eq!(asks(&inside), Gets::Untouched);
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    soon(SOON, String::new, || asks(&inside) == Gets::Served);
    let asked = azure.received().len();
    let mut held = inside.connect(AZURE_IMDS).unwrap();
    let rest = ["--uid", "1000", "--for", "1h", "--reason", "x"];
    let (code, said) = bypass(&world, &rest);
    assert!(code == Some(0) && said.contains("of their own"), "{said}");
    let outcome = inside.connect_with(AZURE_IMDS, &["--within=1000"]);
    assert!(outcome.is_err());
    assert_eq!(azure.received().len(), asked);
    assert_eq!(asks(&billing(&world)), Gets::Untouched);
    // What was steered before goes on as it was.
    assert!(!asks_again(&mut held).unwrap().contains(UPSTREAM_TOKEN));
}

/// One more request over an open connection; `None`: nothing comes back within a second.
fn asks_again(caller: &mut Caller) -> Option<String> {
    let request =
        format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n");
    caller.send(request.as_bytes()).ok()?;
    Some(caller.response().ok()?.text())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn open_connections_end_with_it_also_where_the_service_is_a_cable_away() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("bypass-open").unwrap();
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let id = begun(&world, &["--uid", "1000"], "1h");
    // Past the socket's own filter, the uplink's and netfilter's; and a neighbour gets nowhere.
    let mut open = billing(&world).connect(AZURE_IMDS).unwrap();
    assert!(asks_again(&mut open).unwrap().contains(UPSTREAM_TOKEN));
    assert!(asks_again(&mut open).unwrap().contains(UPSTREAM_TOKEN));
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    let asked = azure.received().len();
    assert_eq!(bypass(&world, &["--end", &id]).0, Some(0));
    // The guard resets it.
    assert_eq!(asks_again(&mut open), None);
    assert_eq!(asks(&billing(&world)), Gets::Served);
    // Without a guard nothing more leaves it.
    begun(&world, &["--uid", "1000"], "6s");
    let mut open = billing(&world).connect(AZURE_IMDS).unwrap();
    assert!(asks_again(&mut open).unwrap().contains(UPSTREAM_TOKEN));
    kill(agent);
    assert!(asks_again(&mut open).unwrap().contains(UPSTREAM_TOKEN));
    let before = azure.received().len();
    over(&world);
    assert_eq!(asks(&billing(&world)), Gets::Refused);
    let after = azure.received().len();
    open.send(b"GET /late HTTP/1.1\r\nMetadata: true\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let all = azure.received();
    assert!(!all.iter().any(|request| request.line.contains("/late")));
    assert_eq!(all.len(), after, "{before}");
    assert!(asked >= 2);
}

fn kill(agent: AgentProcess) {
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
}
