//! Google's dialect end to end: tokens narrowed to a rule, whose account a caller sees, trees with nothing in them that a rule
//! denies, callers that wait, and what the real server sees of all that.

use super::{ask, record_of, world};
use imds_guard_tests::{
    Caller, FakeGcp, GCP_ACCOUNT, GCP_CANARY, GCP_METADATA, GCP_OTHER, Response, Workload, World,
    patience,
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::{Duration, Instant};

const V1: &str = "/computeMetadata/v1";
const DEFAULT: &str = "/computeMetadata/v1/instance/service-accounts/default";
const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_only";

const POLICY: &str = r##"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.build]
cloud = "gcp"
source = "forward"
account = "build@p.iam.gserviceaccount.com"
[identity.node]
cloud = "gcp"
source = "forward"
[identity.minted]
cloud = "gcp"
source = "mint"
account = "lab@p.iam.gserviceaccount.com"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
[document.lab]
cloud = "gcp"
instance = { instance = { zone = "projects/1/zones/lab-a", "maintenance-event" = "NONE", attributes = { "user-data" = "#lab" } }, project = { "project-id" = "lab" } }
[[workload]]
name = "build"
selectors = ["unix:uid:1000"]
[[workload.allow]]
name = "build-scopes"
token = { cloud = "gcp", scopes = ["https://www.googleapis.com/auth/devstorage.read_only"] }
identity = "build"
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry.example.org"] }
identity = "build"
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/project/**", "gcp:/computeMetadata/v1/instance"]
[[workload]]
name = "agent"
selectors = ["unix:uid:1001"]
[[workload.allow]]
name = "agent-tree"
read = ["gcp:/computeMetadata/v1/**"]
write = ["gcp:/computeMetadata/v1/instance/guest-attributes/**"]
[[workload]]
name = "curious"
selectors = ["unix:uid:1002"]
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/**"]
[[deny]]
name = "no-user-data"
read = ["gcp:/computeMetadata/v1/instance/attributes/user-data"]
except = ["agent"]
[[workload]]
name = "lab"
selectors = ["unix:uid:1004"]
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/**"]
document = "lab"
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry.example.org"] }
identity = "minted"
[[workload]]
name = "node"
selectors = ["unix:uid:1005"]
[[workload.allow]]
token = { cloud = "gcp", scopes = ["https://www.googleapis.com/auth/devstorage.read_only"] }
identity = "node"
"##;

fn config(mode: &str) -> String {
    format!("[endpoints]\ngcp-imds = \"{mode}\"\n{POLICY}")
}

fn request(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: metadata.google.internal\r\n{headers}\r\n")
}

fn get(target: &str) -> String {
    request("GET", target, "Metadata-Flavor: Google\r\n")
}

fn dial(workload: &Workload<'_>) -> Caller {
    let patient = workload.connect_with(GCP_METADATA, &["--again=3000"]);
    patient.unwrap()
}

fn read(workload: &Workload<'_>, target: &str) -> Response {
    ask(&mut dial(workload), &get(target))
}

/// Every answer says whose server it is, or JavaScript's library takes it for none.
#[track_caller]
fn has(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.text());
    assert_eq!(
        answer.header("metadata-flavor"),
        Some("Google"),
        "{}",
        answer.head
    );
    assert_eq!(
        answer.header("server"),
        Some("Metadata Server for VM"),
        "{}",
        answer.head
    );
}

#[track_caller]
fn refused(answer: &Response, status: u16) {
    has(answer, status);
    assert!(
        answer.text().contains(&format!("<title>Error {status} ")),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains(GCP_CANARY), "{}", answer.text());
}

fn who(world: &World, uid: u32) -> Workload<'_> {
    world.workload(&format!("w{uid}")).uid(uid)
}

fn asked_for(gcp: &FakeGcp, part: &str) -> usize {
    gcp.lines()
        .iter()
        .filter(|line| line.contains(part))
        .count()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_token_is_the_rules_account_with_the_rules_scopes_and_asked_for_once() {
    let world = world("gcp-token");
    let gcp = world.gcp().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let build = who(&world, 1000);
    let mut caller = dial(&build);
    let given = ask(&mut caller, &get(&format!("{DEFAULT}/token")));
    has(&given, 200);
    assert_eq!(given.header("content-type"), Some("application/json"));
    let body = given.json().unwrap();
    assert_eq!(body["access_token"], format!("{GCP_CANARY}-1"));
    assert_eq!(
        (&body["expires_in"], &body["token_type"]),
        (&json!(3599), &json!("Bearer"))
    );
    let encoded = "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only";
    let line = format!("GET {V1}/instance/service-accounts/{GCP_OTHER}/token?scopes={encoded}");
    assert_eq!(gcp.lines(), [line], "{}", agent.log());
    // Another process of the workload, the scope and the account spelled out: the same token.
    let again = read(
        &build,
        &format!("{V1}/instance/service-accounts/{GCP_OTHER}/token?scopes={STORAGE}"),
    );
    assert_eq!(
        again.json().unwrap()["access_token"],
        format!("{GCP_CANARY}-1")
    );
    assert_eq!(asked_for(&gcp, "/token"), 1);
    let record = record_of(&agent, caller.pid(), 1);
    assert_eq!(
        (&record["outcome"], &record["rule"]["name"]),
        (&json!("allowed"), &json!("build-scopes"))
    );
    let audit = std::fs::read_to_string(world.directory().join("audit.jsonl")).unwrap();
    assert!(!(audit + &agent.log()).contains(GCP_CANARY));

    for target in [
        format!("{DEFAULT}/token?scopes=https://www.googleapis.com/auth/cloud-platform"),
        format!("{DEFAULT}/token?scopes={STORAGE},https://www.googleapis.com/auth/cloud-platform"),
        format!("{V1}/instance/service-accounts/{GCP_ACCOUNT}/token"),
        format!("{DEFAULT}/identity?audience=https://other.example.org"),
        format!("{V1}/instance/zone"),
        format!("{V1}/?recursive=true"),
    ] {
        refused(&ask(&mut caller, &get(&target)), 403);
    }
    for uid in [1001, 1002, 1003] {
        refused(&read(&who(&world, uid), &format!("{DEFAULT}/token")), 403);
    }
    assert_eq!(gcp.lines().len(), 1, "no refusal reached the real server");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn identity_tokens_are_forwarded_or_minted_for_the_rules_audience() {
    let world = world("gcp-identity");
    let gcp = world.gcp().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let target = format!("{DEFAULT}/identity?format=full&audience=https://registry.example.org");
    let mut real = dial(&who(&world, 1000));
    for _ in 0..2 {
        let answer = ask(&mut real, &get(&target));
        has(&answer, 200);
        let claims = imds_guard_tests::claims(&answer.text()).unwrap();
        assert_eq!(
            (&claims["aud"], &claims["email"]),
            (&json!("https://registry.example.org"), &json!(GCP_OTHER))
        );
    }
    assert_eq!(asked_for(&gcp, "/identity"), 1, "{:?}", gcp.lines());
    let minted = read(&who(&world, 1004), &target);
    has(&minted, 200);
    let claims = imds_guard_tests::claims(&minted.text()).unwrap();
    assert_eq!(claims["iss"], "http://127.0.0.1:8787");
    assert_eq!(claims["aud"], "https://registry.example.org");
    assert_eq!(
        claims["sub"],
        "spiffe://example.org/host/web-07/workload/lab"
    );
    assert_eq!(claims["email"], "lab@p.iam.gserviceaccount.com");
    assert_eq!(asked_for(&gcp, "/identity"), 1);
    let mut lab = dial(&who(&world, 1004));
    refused(
        &ask(
            &mut lab,
            &get(&format!(
                "{DEFAULT}/identity?audience=https://registry.example.org/"
            )),
        ),
        403,
    );
    refused(&ask(&mut lab, &get(&format!("{DEFAULT}/token"))), 403);
    refused(&ask(&mut lab, &get(&format!("{DEFAULT}/identity"))), 400);
    let signed = agent.audit().records().unwrap();
    assert!(signed.iter().any(|record| record["event"] == "signed"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_caller_sees_the_account_of_its_rule_and_not_the_machines() {
    let world = world("gcp-account");
    let gcp = world.gcp().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let mut build = dial(&who(&world, 1000));
    let account = ask(&mut build, &get(&format!("{DEFAULT}/?recursive=true")));
    has(&account, 200);
    assert_eq!(
        account.json().unwrap(),
        json!({"aliases": ["default"], "email": GCP_OTHER, "scopes": [STORAGE]})
    );
    let email = ask(&mut build, &get(&format!("{DEFAULT}/email")));
    assert_eq!(
        (email.text().as_str(), email.header("content-type")),
        (GCP_OTHER, Some("application/text"))
    );
    let moved = ask(&mut build, &get(DEFAULT));
    has(&moved, 301);
    assert_eq!(moved.header("location"), Some(&*format!("{DEFAULT}/")));
    assert!(gcp.received().is_empty());
    // A rule that leaves the account to the machine: the machine's, with the rule's scopes.
    let node = read(&who(&world, 1005), &format!("{DEFAULT}/?recursive=true"));
    assert_eq!(
        node.json().unwrap(),
        json!({"aliases": ["default"], "email": GCP_ACCOUNT, "scopes": [STORAGE]})
    );
    // By a rule for reads, as the server has it; without any, not at all.
    let tree = read(&who(&world, 1001), &format!("{DEFAULT}/?recursive=true"));
    assert!(tree.text().contains("cloud-platform"), "{}", tree.text());
    refused(&read(&who(&world, 1003), &format!("{DEFAULT}/email")), 403);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_whole_tree_has_nothing_in_it_that_is_denied_or_a_credential() {
    let world = world("gcp-tree");
    let gcp = world.gcp().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let (agent, curious) = (who(&world, 1001), who(&world, 1002));
    let whole = read(&agent, &format!("{V1}/?recursive=true&alt=json"));
    has(&whole, 200);
    assert!(whole.header("etag").is_some(), "{}", whole.head);
    assert_eq!(
        whole.json().unwrap()["instance"]["id"],
        1_234_567_890_123_456_789_u64
    );
    for target in [
        "/?recursive=true",
        "/instance/?recursive=True",
        "/instance/attributes/?recursive=1",
        "/instance/attributes/user-data",
        "/instance/attributes/%75ser-data",
        "//instance//attributes/user-data",
    ] {
        refused(&read(&curious, &format!("{V1}{target}")), 403);
    }
    has(&read(&curious, &format!("{V1}/instance/attributes/")), 200);
    has(&read(&curious, &format!("{V1}/instance/zone")), 200);
    assert_eq!(asked_for(&gcp, "user-data"), 0);
    gcp.expand();
    for target in [
        "/?recursive=true",
        "/instance/?recursive=true",
        "/instance/service-accounts/?recursive=true",
        "/instance/service-accounts/default/?recursive=true",
    ] {
        let answer = read(&agent, &format!("{V1}{target}"));
        has(&answer, 200);
        assert!(answer.text().contains(GCP_ACCOUNT), "{}", answer.text());
        assert!(!answer.text().contains(GCP_CANARY), "{}", answer.text());
    }
    for target in [
        "/instance/gce-workload-certificates/workload-identities",
        "/instance/credentials/certs",
    ] {
        refused(&read(&agent, &format!("{V1}{target}")), 404);
    }
    assert_eq!(asked_for(&gcp, "certificates"), 0);
    let key = format!("{V1}/instance/guest-attributes/hostkeys/rsa");
    let put = |workload: &Workload<'_>| {
        let head = request(
            "PUT",
            &key,
            "Metadata-Flavor: Google\r\nContent-Length: 3\r\n",
        );
        ask(&mut dial(workload), &format!("{head}key"))
    };
    has(&put(&agent), 200);
    refused(&put(&curious), 403);
    assert_eq!(asked_for(&gcp, "PUT "), 1);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn requests_that_speak_for_somebody_else_are_refused_as_the_server_does() {
    let world = world("gcp-guards");
    let gcp = world.gcp().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let mut caller = dial(&who(&world, 1001));
    let zone = format!("{V1}/instance/zone");
    // Go's probe has no header.
    let probe = ask(&mut caller, &request("GET", "/", ""));
    has(&probe, 200);
    assert_eq!(probe.text(), "computeMetadata/\n");
    let missing = ask(&mut caller, &request("GET", &zone, ""));
    refused(&missing, 403);
    assert!(
        missing
            .text()
            .contains("Missing Metadata-Flavor:Google header."),
        "{}",
        missing.text()
    );
    for (headers, status) in [
        ("Metadata-Flavor: google\r\n", 403),
        (
            "Metadata-Flavor: Google\r\nX-Forwarded-For: 10.0.0.1\r\n",
            403,
        ),
        ("Metadata-Flavor: Google\r\nVia: 1.1 squid\r\n", 403),
        (
            "Metadata-Flavor: Google\r\nMetadata-Flavor: Google\r\n",
            400,
        ),
    ] {
        refused(&ask(&mut caller, &request("GET", &zone, headers)), status);
    }
    for (target, status) in [
        ("/computeMetadata/v1beta1/instance/zone", 404),
        ("/0.1/meta-data/zone", 404),
        ("/computeMetadata/v1/instance/?recursive=maybe", 400),
        ("/computeMetadata/v1/instance/../project/project-id", 400),
    ] {
        refused(&ask(&mut caller, &get(target)), status);
    }
    let foreign = get(&zone).replace("metadata.google.internal", "rebound.evil.example");
    refused(&ask(&mut caller, &foreign), 403);
    let post = request(
        "POST",
        &zone,
        "Metadata-Flavor: Google\r\nContent-Length: 0\r\n",
    );
    refused(&ask(&mut caller, &post), 405);
    assert!(gcp.received().is_empty(), "{:?}", gcp.lines());
    has(&ask(&mut caller, &get(&zone)), 200);
    has(
        &ask(
            &mut caller,
            &get(&zone).replace("metadata.google.internal", "169.254.169.254"),
        ),
        200,
    );
    let older = request("GET", &zone, "X-Google-Metadata-Request: True\r\n");
    has(&ask(&mut caller, &older), 200);
    let sent = &gcp.received()[2].headers;
    assert!(
        sent.iter()
            .any(|header| header == "metadata-flavor: Google"),
        "{sent:?}"
    );
    let instance = ask(&mut caller, &get(&format!("{V1}/instance")));
    has(&instance, 301);
    assert_eq!(
        instance.header("location"),
        Some("/computeMetadata/v1/instance/")
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_waits_is_answered_by_a_change_and_let_go_by_another_policy() {
    let world = world("gcp-wait");
    let gcp = world.gcp().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let event = format!("{V1}/instance/maintenance-event?wait_for_change=true&timeout_sec=60");
    let (forwarded, fixed) = (who(&world, 1001), who(&world, 1004));
    let mut waiting = dial(&forwarded);
    waiting.send(get(&event).as_bytes()).unwrap();
    until("the wait is under way", || {
        asked_for(&gcp, "wait_for_change=true&timeout_sec=60") == 1
    });
    gcp.event("MIGRATE_ON_HOST_MAINTENANCE");
    let answer = waiting.response().unwrap();
    has(&answer, 200);
    assert_eq!(answer.text(), "MIGRATE_ON_HOST_MAINTENANCE");
    // What it has isn't what there is: at once.
    let known = ask(&mut waiting, &get(&format!("{event}&last_etag=0")));
    has(&known, 200);

    // Configured: until the time is over.
    let mut lab = dial(&fixed);
    let began = Instant::now();
    let answer = ask(&mut lab, &get(&event.replace("=60", "=1")));
    has(&answer, 200);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    let etag = answer.header("etag").unwrap().to_owned();
    let at_once = Instant::now();
    has(&ask(&mut lab, &get(&format!("{event}&last_etag=0"))), 200);
    assert!(at_once.elapsed() < patience(Duration::from_secs(5)));

    // Both hang; a policy that grants neither any more lets them go.
    for (caller, head) in [
        (&mut waiting, get(&event)),
        (&mut lab, get(&format!("{event}&last_etag={etag}"))),
    ] {
        caller.send(head.as_bytes()).unwrap();
    }
    until("both wait", || {
        asked_for(&gcp, "wait_for_change=true&timeout_sec=60") == 3
    });
    let less = config("enforce").replace(
        "gcp:/computeMetadata/v1/**",
        "gcp:/computeMetadata/v1/project/**",
    );
    std::fs::write(world.directory().join("etc/imds-guard.toml"), less).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    for caller in [&mut waiting, &mut lab] {
        refused(&caller.response().unwrap(), 403);
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_audit_the_request_goes_on_as_it_was_written() {
    let world = world("gcp-audit");
    let gcp = world.gcp().unwrap();
    let agent = world.agent().config(&config("audit")).start().unwrap();
    let mut stranger = dial(&who(&world, 1003));
    let given = ask(&mut stranger, &get(&format!("{DEFAULT}/token")));
    has(&given, 200);
    let record = record_of(&agent, stranger.pid(), 1);
    assert_eq!(record["would_deny"]["reason"], "no_workload");
    let given = read(&who(&world, 1000), &format!("{DEFAULT}/token"));
    has(&given, 200);
    let line = format!("GET {DEFAULT}/token");
    assert_eq!(gcp.lines(), [line.clone(), line]);
    let account = read(&who(&world, 1000), &format!("{DEFAULT}/?recursive=true"));
    assert!(
        account.text().contains("cloud-platform"),
        "{}",
        account.text()
    );
    // An enforced deny stays one.
    refused(
        &read(&who(&world, 1002), &format!("{V1}/?recursive=true")),
        403,
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_failing_or_lying_server_is_no_source_of_anything_kept() {
    let world = world("gcp-upstream");
    let gcp = world.gcp().unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    let build = who(&world, 1000);
    let token = format!("{DEFAULT}/token");
    gcp.refuse(Some("404 Not Found"));
    has(&read(&build, &token), 404);
    gcp.refuse(Some("503 Service Unavailable"));
    has(&read(&build, &token), 503);
    gcp.refuse(Some("200 OK"));
    std::thread::sleep(Duration::from_millis(600));
    refused(&read(&build, &token), 502);
    gcp.refuse(None);
    gcp.late(Duration::from_secs(2));
    // A failure is repeated for half a second.
    std::thread::sleep(Duration::from_millis(600));
    let began = Instant::now();
    refused(&read(&build, &token), 504);
    assert!(
        began.elapsed() < patience(Duration::from_secs(2)),
        "{:?}",
        began.elapsed()
    );
    gcp.late(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(600));
    has(&read(&build, &token), 200);
}

/// TLS can't be looked into: it is shut where what it carries is guarded.
#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_tls_port_is_shut_and_never_silently_open() {
    let world = world("gcp-mtls");
    let reached = world
        .enter(|| Ok(std::net::TcpListener::bind("169.254.169.254:443")?))
        .unwrap();
    reached.set_nonblocking(true).unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    let caller = who(&world, 1001);
    let mut tls = caller
        .connect_with("169.254.169.254:443", &["--again=3000"])
        .unwrap();
    tls.send(hello).unwrap();
    refused(&tls.response().unwrap(), 400);
    let mut plain = caller
        .connect_with("169.254.169.254:443", &["--again=3000"])
        .unwrap();
    refused(&ask(&mut plain, &get(&format!("{V1}/instance/zone"))), 404);
    assert!(reached.accept().is_err(), "nothing reached the real port");
    assert_eq!(
        record_of(&agent, plain.pid(), 1)["reason"],
        "unknown_service"
    );
    drop(agent);
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(5));
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(10));
    }
}
