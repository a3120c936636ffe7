//! Azure's endpoints beside the token: scheduled events that hang and are let go, load balancer, attested documents, what is as
//! strong as a token and so nobody's, and the headers that clients trace their requests by.

use super::{COMMON, FORWARDS, PINNED, TOKEN, ask, config, get, record_of, refused, world};
use imds_guard_tests::{
    AZURE_IMDS, AZURE_WIRESERVER, Caller, FakeAzure, UPSTREAM_TOKEN, World, patience,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const APPROVAL: &str = r#"{"StartRequests":[{"EventId":"0A1B"}]}"#;

/// Uid 1000 reads and approves scheduled events, and reads what the others of these tests ask for; uid 1001 reads them alone.
const RULES: &str = r#"
[[workload]]
name = "drainer"
selectors = ["unix:uid:1000"]
[[workload.allow]]
read = ["azure:/metadata/scheduledevents", "azure:/metadata/loadbalancer", "azure:/metadata/attested/document"]
[[workload.allow]]
write = ["azure:/metadata/scheduledevents"]
[[workload]]
name = "watcher"
selectors = ["unix:uid:1001"]
[[workload.allow]]
read = ["azure:/metadata/scheduledevents"]
"#;

fn post(target: &str, body: &str) -> String {
    let length = body.len();
    // What curl says a body is, where nobody tells it otherwise.
    get(target)
        .replacen("GET", "POST", 1)
        .replace("\r\n\r\n", &format!("\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"))
}

fn dial(world: &World, uid: u32) -> Caller {
    let workload = world.workload("drainer").uid(uid);
    workload.connect(AZURE_IMDS).unwrap()
}

/// Waits until so many requests have reached the service.
#[track_caller]
fn asked(azure: &FakeAzure, count: usize) {
    let until = Instant::now() + patience(Duration::from_secs(5));
    while azure.received().len() < count {
        assert!(Instant::now() < until, "{:?}", azure.lines());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn scheduled_events_hang_until_they_come_and_another_policy_lets_go() {
    let world = world("azure-events");
    let azure = world.azure().unwrap();
    let agent = world
        .agent()
        .config(&config("enforce", RULES))
        .start()
        .unwrap();
    let (mut drainer, mut watcher) = (dial(&world, 1000), dial(&world, 1001));
    for caller in [&mut drainer, &mut watcher] {
        caller.send(get(EVENTS).as_bytes()).unwrap();
    }
    asked(&azure, 2);
    // A policy that grants the one no more lets it go at once; the other hangs on, whatever else changed.
    let read_alone = r#"selectors = ["unix:uid:1001"]
[[workload.allow]]
read = ["azure:/metadata/scheduledevents"]"#;
    let less = config("enforce", RULES).replace(
        read_alone,
        &read_alone.replace("scheduledevents", "versions"),
    );
    std::fs::write(world.directory().join("etc/imds-guard.toml"), less).unwrap();
    let begun = Instant::now();
    agent.signal(Signal::SIGHUP).unwrap();
    refused(&watcher.response().unwrap(), 403, "access_denied");
    assert!(begun.elapsed() < patience(Duration::from_secs(3)));
    azure.event();
    let answer = drainer.response().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["DocumentIncarnation"], 1);
    // From then on at once.
    assert_eq!(ask(&mut drainer, &get(EVENTS)).status, 200);
    assert_eq!(
        azure.lines(),
        [
            format!("GET {EVENTS}"),
            format!("GET {EVENTS}"),
            format!("GET {EVENTS}")
        ]
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_event_is_approved_by_whom_a_rule_lets_write() {
    let world = world("azure-approval");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", RULES))
        .start()
        .unwrap();
    let refusal = ask(&mut dial(&world, 1001), &post(EVENTS, APPROVAL));
    refused(&refusal, 403, "access_denied");
    assert!(azure.received().is_empty(), "{:?}", azure.lines());
    let mut drainer = dial(&world, 1000);
    let answer = ask(&mut drainer, &post(EVENTS, APPROVAL));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let reached = azure.received().pop().unwrap();
    assert_eq!(reached.line, format!("POST {EVENTS} HTTP/1.1"));
    assert_eq!(reached.body, APPROVAL, "to the last byte");
    // The service's own refusal, as it is.
    let answer = ask(&mut drainer, &post(EVENTS, "{}"));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["error"], "Bad request");
    let without = EVENTS.replace("?api-version=2020-07-01", "");
    refused(
        &ask(&mut drainer, &post(&without, APPROVAL)),
        400,
        "Bad request. api-version is invalid or was not specified in the request. For more information refer to aka.ms/azureimds",
    );
    assert_eq!(azure.received().len(), 2, "{:?}", azure.lines());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn load_balancer_and_attested_documents_are_the_real_services_to_the_last_byte() {
    let world = world("azure-documents");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", RULES))
        .start()
        .unwrap();
    let (mut drainer, mut watcher) = (dial(&world, 1000), dial(&world, 1001));
    for (target, body) in [
        (
            "/metadata/loadbalancer?api-version=2020-10-01",
            r#"{"loadbalancer":{"publicIpAddresses":[],"inboundRules":[{"frontendPort":80}],"outboundRules":[]}}"#,
        ),
        (
            "/metadata/attested/document?api-version=2020-09-01&nonce=1234567890",
            r#"{"encoding":"pkcs7","signature":"canary-of-a-signature"}"#,
        ),
    ] {
        refused(&ask(&mut watcher, &get(target)), 403, "access_denied");
        let before = azure.received().len();
        let answer = ask(&mut drainer, &get(target));
        assert_eq!((answer.status, answer.text()), (200, body.to_owned()));
        assert_eq!(azure.lines()[before..], [format!("GET {target}")]);
    }
    // A name below a leaf, another spelling of the nonce: nothing that policy reads otherwise than the service.
    let below = "/metadata/attested/document/x?api-version=2020-09-01";
    assert_eq!(ask(&mut drainer, &get(below)).status, 404);
    let twice = "/metadata/attested/document?api-version=2020-09-01&nonce=1&Nonce=2";
    assert_eq!(ask(&mut drainer, &get(twice)).status, 400);
}

/// Who may read and write everything that a rule can name.
const EVERYTHING: &str = r#"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"
[[workload]]
name = "all"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "real"
[[workload.allow]]
read = ["azure:/**"]
[[workload.allow]]
write = ["azure:/**"]
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_is_as_strong_as_a_token_is_nobodys_at_either_address_and_clients_fall_back() {
    let world = world("azure-certificates");
    let azure = world.azure().unwrap();
    azure.at_the_wireserver(&world).unwrap();
    for mode in ["enforce", "audit"] {
        let policy = format!(
            "[endpoints]\nazure-imds = \"{mode}\"\nazure-wireserver = \"{mode}\"\n{EVERYTHING}"
        );
        let _agent = world.agent().config(&policy).start().unwrap();
        for address in [AZURE_IMDS, AZURE_WIRESERVER] {
            let host = address.trim_end_matches(":80");
            let mut caller = world.workload("all").connect(address).unwrap();
            let to = |head: String| head.replace("169.254.169.254", host);
            let before = azure.received().len();
            for head in [
                get("/metadata/identity/getplatformmetadata?cred-api-version=2.0"),
                get("/metadata/Identity/getPlatformMetadata?cred-api-version=2.0"),
                post(
                    "/metadata/identity/issuecredential?cred-api-version=2.0",
                    r#"{"csr":"x"}"#,
                ),
                post(
                    "/metadata/identity/issueCredential/?cred-api-version=2.0",
                    r#"{"csr":"x"}"#,
                ),
                get("/metadata/identity/issuecredential/x?cred-api-version=2.0"),
                get("/metadata/identity?api-version=2018-02-01"),
            ] {
                let answer = ask(&mut caller, &to(head.clone()));
                assert_eq!(answer.status, 404, "{mode} {address} {head}");
            }
            assert_eq!(azure.received().len(), before, "{:?}", azure.lines());
            // What such a client asks for next, on the same connection.
            let answer = ask(&mut caller, &to(get(TOKEN)));
            assert_eq!(answer.status, 200, "{mode} {address}: {}", answer.text());
            assert_eq!(answer.json().unwrap()["access_token"], UPSTREAM_TOKEN);
            assert_eq!(answer.json().unwrap()["client_id"], PINNED);
        }
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_headers_that_clients_trace_requests_by_hurt_nobody_and_reach_only_the_wireserver() {
    let world = world("azure-tracing");
    let azure = world.azure().unwrap();
    azure.at_the_wireserver(&world).unwrap();
    let policy = format!(
        "[endpoints]\nazure-imds = \"enforce\"\nazure-wireserver = \"enforce\"\n{EVERYTHING}"
    );
    let agent = world.agent().config(&policy).start().unwrap();
    let tracing = "\r\nx-ms-client-request-id: 4b0e\r\nx-ms-return-client-request-id: true\r\nx-ms-correlation-id: 77\r\nUser-Agent: azsdk\r\n\r\n";
    let mut caller = world.workload("all").connect(AZURE_IMDS).unwrap();
    let answer = ask(&mut caller, &get(TOKEN).replace("\r\n\r\n", tracing));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = azure.received().pop().unwrap();
    assert_eq!(sent.header("x-ms-client-request-id"), None);
    assert_eq!(sent.headers.len(), 2, "{:?}", sent.headers);
    let record = record_of(&agent, caller.pid(), 1);
    assert_eq!(record["outcome"], "allowed", "{record}");

    let mut caller = world.workload("all").connect(AZURE_WIRESERVER).unwrap();
    let health = "GET /machine?comp=goalstate HTTP/1.1\r\nHost: 168.63.129.16\r\nx-ms-version: 2012-11-30\r\n\r\n";
    ask(&mut caller, &health.replace("\r\n\r\n", tracing));
    let sent = azure.received().pop().unwrap();
    for (name, value) in [
        ("x-ms-version", "2012-11-30"),
        ("x-ms-client-request-id", "4b0e"),
        ("x-ms-correlation-id", "77"),
    ] {
        assert_eq!(sent.header(name), Some(value), "{:?}", sent.headers);
    }
    assert_eq!(sent.header("user-agent"), None);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn where_reads_are_of_a_document_nothing_that_only_the_platform_can_say_is_made_up() {
    let world = world("azure-emulated");
    let policy = format!(
        "[endpoints]\nazure-imds = \"enforce\"\n{COMMON}{}",
        FORWARDS.replace(
            "read = [\"azure:/metadata/**\"]",
            "read = [\"azure:/metadata/**\"]\ndocument = \"web\""
        )
    );
    let _agent = world.agent().config(&policy).start().unwrap();
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    for target in [
        EVENTS,
        "/metadata/loadbalancer?api-version=2020-10-01",
        "/metadata/attested/document?api-version=2020-09-01",
    ] {
        assert_eq!(ask(&mut caller, &get(target)).status, 404, "{target}");
    }
    let there = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
    assert_eq!(ask(&mut caller, &get(there)).text(), "web-07");
}
