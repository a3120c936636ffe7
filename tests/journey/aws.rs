//! Amazon's dialect end to end: sessions, roles, who may go without a session, and what the real service sees of all that.

use super::{ask, record_of, world};
use imds_guard_tests::{
    AUTHORIZATION, AWS_CANARY, AWS_CONTAINER, AWS_IMDS, Caller, FakeAws, ROLE, Response, Workload,
    World,
};
use std::time::Duration;

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const REGION: &str = "/latest/meta-data/placement/region";

const POLICY: &str = r##"
[identity.own]
cloud = "aws"
source = "forward"
role = "arn:aws:iam::111122223333:role/instance-role"
[identity.other]
cloud = "aws"
source = "forward"
role = "other-role"
[document.lab]
cloud = "aws"
instance = { "meta-data" = { "instance-id" = "i-lab", placement = { region = "lab-1" } }, "user-data" = "#!lab" }
[[workload]]
name = "batch"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "aws" }
identity = "own"
[[workload.allow]]
read = ["aws:/latest/meta-data/**", "aws:/latest/dynamic/**"]
[[workload]]
name = "legacy"
selectors = ["unix:uid:1002"]
[[workload.allow]]
name = "legacy-v1"
token = { cloud = "aws" }
identity = "own"
imdsv1 = true
until = 2099-01-01
owner = "team-legacy"
limit = "50/s"
[[workload.allow]]
read = ["aws:/latest/meta-data/placement/**"]
[[workload]]
name = "elsewhere"
selectors = ["unix:uid:1003"]
[[workload.allow]]
token = { cloud = "aws" }
identity = "other"
[[workload]]
name = "lab"
selectors = ["unix:uid:1004"]
[[workload.allow]]
read = ["aws:/latest/**"]
document = "lab"
"##;

fn config(mode: &str) -> String {
    format!("[endpoints]\naws-imds = \"{mode}\"\naws-ecs = \"{mode}\"\n{POLICY}")
}

fn put(ttl: &str) -> String {
    format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn get(target: &str, token: Option<&str>) -> String {
    let token = token.map_or(String::new(), |token| {
        format!("X-aws-ec2-metadata-token: {token}\r\n")
    });
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\n{token}\r\n")
}

fn dial(workload: &Workload<'_>) -> Caller {
    let patient = workload.connect_with(AWS_IMDS, &["--again=3000"]);
    patient.unwrap()
}

/// A session token, got as the SDKs do.
fn session(caller: &mut Caller) -> String {
    let answer = ask(caller, &put("21600"));
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    assert_eq!(
        answer.header("x-aws-ec2-metadata-token-ttl-seconds"),
        Some("21600")
    );
    answer.text()
}

/// One GET of IMDSv2 over a connection of its own.
fn read(workload: &Workload<'_>, target: &str) -> Response {
    let mut caller = dial(workload);
    let token = session(&mut caller);
    ask(&mut caller, &get(target, Some(&token)))
}

#[track_caller]
fn refused(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.text());
    let title = format!("<title>{status} - ");
    assert!(answer.text().contains(&title), "{}", answer.text());
    assert!(!answer.text().contains(AWS_CANARY), "{}", answer.text());
}

fn puts(aws: &FakeAws) -> usize {
    aws.lines()
        .iter()
        .filter(|line| line.starts_with("PUT"))
        .count()
}

fn who(world: &World, uid: u32) -> Workload<'_> {
    world.workload(&format!("w{uid}")).uid(uid)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_granted_role_is_forwarded_under_a_session_of_the_agents_own() {
    let world = world("aws-role");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let mut caller = dial(&who(&world, 1000));
    let token = session(&mut caller);
    assert!(aws.received().is_empty(), "the session is ours alone");
    let list = ask(&mut caller, &get(ROLES, Some(&token)));
    assert_eq!((list.status, list.text().as_str()), (200, ROLE));
    assert!(aws.received().is_empty(), "the rule says which role it is");
    let given = ask(&mut caller, &get(&format!("{ROLES}{ROLE}"), Some(&token)));
    assert_eq!(given.status, 200, "{}\n{}", given.text(), agent.log());
    assert_eq!(given.header("content-type"), Some("text/plain"));
    assert_eq!(
        given.json().unwrap()["SecretAccessKey"],
        format!("{AWS_CANARY}-1")
    );
    let again = ask(
        &mut caller,
        &get(
            "/2021-07-15/meta-data/placement/availability-zone/",
            Some(&token),
        ),
    );
    assert_eq!(again.text(), "eu-central-1a");
    assert_eq!(
        aws.lines(),
        [
            "PUT /latest/api/token".to_owned(),
            format!("GET {ROLES}{ROLE}"),
            "GET /2021-07-15/meta-data/placement/availability-zone/".to_owned()
        ],
        "one session for all"
    );
    let shown = aws
        .received()
        .iter()
        .any(|r| r.headers.iter().any(|h| h.contains(&token)));
    assert!(!shown, "the caller's token is nobody's business upstream");
    let record = record_of(&agent, caller.pid(), 3);
    assert_eq!(record["resource"], ROLE);
    assert_eq!(record["workload"], "batch");
    let log =
        std::fs::read_to_string(world.directory().join("audit.jsonl")).unwrap() + &agent.log();
    assert!(!log.contains(AWS_CANARY) && !log.contains(&token), "{log}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_has_no_grant_gets_a_session_and_then_a_refusal() {
    let world = world("aws-refused");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let batch = who(&world, 1000);
    assert_eq!(read(&batch, &format!("{ROLES}{ROLE}")).status, 200);
    let asked = aws.lines().len();
    for target in [
        ROLES,
        &format!("{ROLES}{ROLE}"),
        REGION,
        "/latest/user-data",
        "/1.0/user-data",
    ] {
        refused(&read(&who(&world, 1001), target), 403);
    }
    for target in [
        "/latest/user-data",
        &format!("{ROLES}other-role"),
        &format!("{ROLES}admin"),
    ] {
        refused(&read(&batch, target), 403);
    }
    for target in [
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
        "/2021-07-15/meta-data/iam/security-credentials/admin",
    ] {
        refused(&read(&batch, target), 403);
    }
    for target in [
        "/latest/meta-data/iam/Security-Credentials/x",
        "/Latest/meta-data/instance-id",
    ] {
        refused(&read(&batch, target), 404);
    }
    // A rule for a role that this machine doesn't have: named to its caller, and the real service says the rest.
    let elsewhere = who(&world, 1003);
    assert_eq!(read(&elsewhere, ROLES).text(), "other-role");
    assert_eq!(aws.lines().len(), asked, "{:?}", aws.lines());
    assert_eq!(read(&elsewhere, &format!("{ROLES}other-role")).status, 404);
    drop(agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_session_is_its_callers_alone_and_ends() {
    let world = world("aws-session");
    let _aws = world.aws().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let mut caller = dial(&who(&world, 1000));
    let token = session(&mut caller);
    let with = |caller: &mut Caller, token: &str| ask(caller, &get(REGION, Some(token)));
    assert_eq!(with(&mut caller, &token).text(), "eu-central-1");
    // Another process of the same service has it, too; another service and another user don't.
    assert_eq!(with(&mut dial(&who(&world, 1000)), &token).status, 200);
    let moved = world.workload("moved").uid(1000);
    refused(&with(&mut dial(&moved), &token), 401);
    assert_eq!(read(&moved, REGION).status, 200, "with one of its own");
    refused(&with(&mut dial(&who(&world, 1002)), &token), 401);
    let mut altered = token.clone().into_bytes();
    altered[20] ^= 1;
    let long = "A".repeat(4000);
    for bad in [
        &*String::from_utf8(altered).unwrap(),
        &long,
        "",
        "x",
        &token[1..],
    ] {
        refused(&with(&mut caller, bad), 401);
    }
    let short = ask(&mut caller, &put("1")).text();
    assert_eq!(with(&mut caller, &short).status, 200);
    std::thread::sleep(Duration::from_millis(2100));
    refused(&with(&mut caller, &short), 401);
    assert_eq!(with(&mut caller, &token).status, 200);
    for ttl in ["0", "21601", "x", ""] {
        refused(&ask(&mut caller, &put(ttl)), 400);
    }
    let forwarded = put("60").replace("\r\n\r\n", "\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
    refused(&ask(&mut caller, &forwarded), 403);
    refused(
        &ask(&mut caller, &put("60").replace("/latest/", "/2021-03-23/")),
        403,
    );
    refused(
        &ask(&mut caller, &get("/latest/api/token", Some(&token))),
        405,
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_restart_of_the_agent_ends_no_session() {
    let world = world("aws-restart");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let batch = who(&world, 1000);
    let token = session(&mut dial(&batch));
    drop(agent);
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let answer = ask(&mut dial(&batch), &get(REGION, Some(&token)));
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), agent.log());
    // The agent's own: the service has forgotten all of them, as after a restore of the machine.
    aws.forget_tokens();
    let before = puts(&aws);
    let answer = ask(&mut dial(&batch), &get(REGION, Some(&token)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(puts(&aws), before + 1);
    // Without the key that the run directory holds, every session has ended.
    drop(agent);
    std::fs::remove_file(world.directory().join("run/session-key")).unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    refused(&ask(&mut dial(&batch), &get(REGION, Some(&token))), 401);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_a_session_only_the_rule_that_says_so_is_served_and_each_call_is_counted() {
    let world = world("aws-v1");
    // The machine itself demands sessions.
    let aws = world.aws().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let mut legacy = dial(&who(&world, 1002));
    assert_eq!(ask(&mut legacy, &get(ROLES, None)).text(), ROLE);
    let given = ask(&mut legacy, &get(&format!("{ROLES}{ROLE}"), None));
    assert_eq!(given.status, 200, "{}", given.text());
    assert!(given.text().contains(AWS_CANARY));
    refused(&ask(&mut legacy, &get(REGION, None)), 401);
    assert_eq!(read(&who(&world, 1002), REGION).status, 200);
    let mut batch = dial(&who(&world, 1000));
    let asked = aws.lines().len();
    for target in [ROLES, &format!("{ROLES}{ROLE}"), REGION] {
        refused(&ask(&mut batch, &get(target, None)), 401);
    }
    refused(&ask(&mut dial(&who(&world, 1001)), &get(REGION, None)), 403);
    assert_eq!(aws.lines().len(), asked);
    let count = |pid, nth| record_of(&agent, pid, nth)["imdsv1"].clone();
    assert_eq!(
        (1..=3)
            .map(|nth| count(legacy.pid(), nth))
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let denied = record_of(&agent, batch.pid(), 2);
    assert_eq!(
        (&denied["imdsv1"], &denied["denial"]["reason"]),
        (&2.into(), &"imdsv1".into())
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_audit_everything_passes_as_it_would_without_us() {
    let world = world("aws-audit");
    let aws = world.aws().unwrap();
    // Before the agent came, this caller got a token of the real service.
    let nobody = who(&world, 1001);
    let real = ask(&mut dial(&nobody), &put("21600")).text();
    let agent = world.agent().config(&config("audit")).start().unwrap();
    let mut caller = dial(&nobody);
    let with = ask(&mut caller, &get(&format!("{ROLES}{ROLE}"), Some(&real)));
    assert!(
        with.text().contains(AWS_CANARY),
        "{}\n{}",
        with.text(),
        agent.log()
    );
    let record = record_of(&agent, caller.pid(), 1);
    assert_eq!(record["would_deny"]["reason"], "no_workload");
    // One of ours is as good: in its place stands one that the caller would have got.
    let token = session(&mut caller);
    let before = puts(&aws);
    for _ in 0..2 {
        let answer = ask(&mut caller, &get("/latest/user-data", Some(&token)));
        assert!(
            answer.text().contains("canary-user-data"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(puts(&aws), before + 1);
    refused(&ask(&mut caller, &get(REGION, None)), 401);
    aws.tokens_are_optional();
    assert_eq!(ask(&mut caller, &get(REGION, None)).text(), "eu-central-1");
    let batch = &mut dial(&who(&world, 1000));
    assert_eq!(ask(batch, &get(REGION, None)).status, 200);
    assert_eq!(
        record_of(&agent, batch.pid(), 1)["would_deny"]["reason"],
        "imdsv1"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_hop_limit_of_one_keeps_containers_out_and_a_rule_lets_them_in() {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent);
    let world = World::with_cloud("aws-hops").unwrap();
    let aws = world.aws().unwrap();
    aws.hop_limit(1);
    let container = world.container().unwrap();
    let inside = || who(&world, 1000).in_space(&container);
    // Without us: the answer to its PUT never comes, and to the host's own it does.
    let curl = |workload: Workload<'_>| {
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60";
        let url = "http://169.254.169.254/latest/api/token";
        let arguments = ["-s", "-m", "2", "-X", "PUT", "-H", ttl, url];
        workload.run("/usr/bin/curl".as_ref(), &arguments).unwrap()
    };
    assert_eq!(curl(inside()).status.code(), Some(28), "timed out");
    assert!(curl(who(&world, 1000)).status.success());
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(read(&inside(), REGION).text(), "eu-central-1");
    refused(&read(&who(&world, 1001).in_space(&container), REGION), 403);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_emulated_tree_needs_no_cloud() {
    let world = world("aws-fixed");
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let lab = who(&world, 1004);
    for (target, want) in [
        ("/latest/meta-data/instance-id", "i-lab"),
        ("/2009-04-04/meta-data/placement/region/", "lab-1"),
        ("/latest/meta-data/", "instance-id\nplacement/"),
        ("/latest/user-data", "#!lab"),
        ("//latest/", "meta-data/\nuser-data"),
    ] {
        let answer = read(&lab, target);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, want),
            "{target}"
        );
    }
    assert_eq!(
        read(&lab, "/latest/user-data").header("content-type"),
        Some("application/octet-stream")
    );
    refused(&read(&lab, "/latest/meta-data/hostname"), 404);
    refused(&read(&lab, "/2031-01-01/meta-data/instance-id"), 404);
    refused(&read(&lab, ROLES), 403);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_containers_credentials_are_forwarded_with_what_it_authorises_itself_by() {
    let world = world("aws-container");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let ask_for = |uid, target: &str, authorization: &str| {
        let mut caller = who(&world, uid).connect(AWS_CONTAINER).unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: 169.254.170.2\r\nAuthorization: {authorization}\r\nAccept: application/json\r\n\r\n"
        );
        (ask(&mut caller, &head), caller.pid())
    };
    let target = "/v2/credentials/0b9f2a6c-canary-id";
    let (given, pid) = ask_for(1000, target, AUTHORIZATION);
    assert_eq!(given.status, 200, "{}\n{}", given.text(), agent.log());
    assert_eq!(given.header("content-type"), Some("application/json"));
    assert!(given.text().contains(AWS_CANARY));
    assert_eq!(aws.lines(), [format!("GET {target}")]);
    assert_eq!(record_of(&agent, pid, 1)["path"], "/v2/credentials");
    // What the real one refuses comes through as it is.
    let (wrong, _) = ask_for(1000, target, "another");
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.json().unwrap()["Message"], "no such authorization");
    let asked = aws.lines().len();
    let (denied, _) = ask_for(1001, target, AUTHORIZATION);
    assert_eq!(denied.status, 403);
    let denied = denied.json().unwrap();
    assert_eq!(denied["Code"], "AccessDenied");
    assert!(
        denied["Message"].as_str().unwrap().contains("no workload"),
        "{denied}"
    );
    assert_eq!(
        ask_for(1000, "/v2/Credentials/x", AUTHORIZATION).0.status,
        404
    );
    assert_eq!(aws.lines().len(), asked);
    let log =
        std::fs::read_to_string(world.directory().join("audit.jsonl")).unwrap() + &agent.log();
    assert!(!log.contains("canary"), "{log}");
}
