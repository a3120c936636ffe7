//! Azure's dialect as callers meet it: through connect(), the gate and the table.

use super::{COMMON, LOCATION, MINTS, TOKEN, ask, config, get, record_of, refused, world};
use imds_guard_tests::{AZURE_IMDS, Caller, World};
use std::time::{Duration, Instant};

/// Opens a connection of its own for one request, for some end it.
fn once(world: &World, head: &str) -> imds_guard_tests::Response {
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    ask(&mut caller, head)
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn metadata_is_answered_from_the_workloads_own_document() {
    let world = world("documents");
    let other = r#"
[document.east]
cloud = "azure"
instance = { compute = { location = "eastus" } }
[[workload]]
name = "east"
selectors = ["unix:uid:1002"]
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
document = "east"
"#;
    let agent = world
        .agent()
        .config(&config("enforce", &format!("{MINTS}{other}")))
        .start()
        .unwrap();
    let (web, east) = (world.workload("web"), world.workload("east").uid(1002));
    assert_eq!(web.get(LOCATION).unwrap().text(), "westeurope");
    assert_eq!(east.get(LOCATION).unwrap().text(), "eastus");
    let versions = web.get("/metadata/versions").unwrap().json().unwrap();
    let versions = versions["apiVersions"].as_array().unwrap();
    assert!(versions.iter().any(|v| v == "2021-02-01"), "{versions:?}");
    let whole = web
        .get("/metadata/instance?api-version=2021-02-01")
        .unwrap();
    assert_eq!(
        whole.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let whole = whole.json().unwrap();
    assert_eq!(whole["compute"]["name"], "web-07");
    assert_eq!(
        whole["network"]["interface"][0]["macAddress"],
        "000D3A000001"
    );
    // A version that doesn't know a member leaves it out; its name, asked for, isn't there.
    let old = web
        .get("/metadata/instance/compute?api-version=2017-04-02")
        .unwrap()
        .json()
        .unwrap();
    assert!(old.get("tags").is_none(), "{old}");
    let listing = web
        .get("/metadata/instance?api-version=2021-02-01&format=text")
        .unwrap();
    assert_eq!(listing.text(), "compute/\nnetwork/");
    let info = web
        .get("/metadata/identity/info?api-version=2018-02-01")
        .unwrap();
    assert_eq!(
        info.json().unwrap()["tenantId"],
        "72f988bf-0000-0000-0000-2d7cd011db47"
    );
    for (target, status) in [
        ("/metadata/instance?api-version=1999-01-01", 400),
        ("/metadata/instance", 400),
        (
            "/metadata/instance/compute/location?api-version=2021-02-01",
            400,
        ),
        (
            "/metadata/instance/compute/nothing?api-version=2021-02-01",
            404,
        ),
        // Emulated it would be a lie: a signature of the platform's.
        ("/metadata/attested/document?api-version=2021-02-01", 404),
        (
            "/metadata/identity/issuecredential?api-version=2021-02-01",
            404,
        ),
    ] {
        assert_eq!(web.get(target).unwrap().status, status, "{target}");
    }
    // No grant: refused before anything is looked up.
    let versions = east.get("/metadata/versions").unwrap();
    refused(&versions, 403, "access_denied");
    drop(agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_probe_without_the_metadata_header_is_told_so_at_once() {
    let world = world("probe");
    let _agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let probe = format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    ask(&mut caller, &get(LOCATION));
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = ask(&mut caller, &probe);
        best = best.min(begun.elapsed());
        refused(&answer, 400, "invalid_request");
        assert_eq!(
            answer.json().unwrap()["error_description"],
            "Required metadata header not specified"
        );
    }
    assert!(best < Duration::from_millis(20), "{best:?}");
    assert_eq!(ask(&mut caller, &get(TOKEN)).status, 200);
}

/// What is added to an ordinary head, the answer, and the name in the audit record.
const HEADERS: [(&str, u16, &str); 14] = [
    ("X-Forwarded-For: 10.0.0.1", 400, "forwarded_for"),
    ("Forwarded: for=10.0.0.1", 400, "forwarded"),
    ("Via: 1.1 proxy", 400, "forwarded"),
    ("Origin: http://evil", 403, "browser"),
    ("Sec-Fetch-Mode: cors", 403, "browser"),
    ("Host: 169.254.169.254", 400, "duplicate_header"),
    ("Metadata: true", 400, "duplicate_header"),
    ("Transfer-Encoding: chunked", 400, "transfer_encoding"),
    (
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        400,
        "transfer_encoding",
    ),
    (
        "Content-Length: 0\r\nContent-Length: 0",
        400,
        "duplicate_content_length",
    ),
    ("Content-Length: +1", 400, "bad_content_length"),
    ("Expect: 100-continue", 417, "expect"),
    ("Upgrade: h2c", 400, "upgrade"),
    (" folded: x", 400, "obsolete_fold"),
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn heads_that_speak_for_somebody_else_or_can_be_read_two_ways_are_refused() {
    let world = world("heads");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    for (header, status, name) in HEADERS {
        let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
        let head = get(TOKEN).replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
        let answer = ask(&mut caller, &head);
        assert_eq!(answer.status, status, "{header}: {}", answer.text());
        assert!(answer.json().unwrap()["error"].is_string());
        let record = record_of(&agent, caller.pid(), 1);
        assert_eq!(record["reason"], name, "{header}: {record}");
        assert_eq!(record["outcome"], "refused", "{header}: {record}");
    }
    let plain = get(TOKEN).replace("\r\n\r\n", "\r\nX-Harmless: 1\r\n\r\n");
    assert_eq!(once(&world, &plain).status, 200);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn methods_versions_hosts_and_targets() {
    let world = world("lines");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let head = |line: &str, host: &str| {
        format!("{line}\r\nHost: {host}\r\nMetadata: true\r\nConnection: close\r\n\r\n")
    };
    let own = "169.254.169.254";
    let line = |method: &str, version: &str| format!("{method} {TOKEN} HTTP/{version}");
    for (line, host, status) in [
        (line("GET", "1.1"), own, 200),
        (line("GET", "1.1"), "169.254.169.254:80", 200),
        (line("GET", "1.0"), own, 200),
        (line("POST", "1.1"), own, 405),
        (line("PUT", "1.1"), own, 405),
        (line("DELETE", "1.1"), own, 405),
        (line("GET", "2.0"), own, 505),
        (line("GET", "1.1"), "metadata.evil.example", 403),
        (line("GET", "1.1"), "2852039166", 403),
        (line("GET", "1.1"), "168.63.129.16", 403),
        (format!("GET http://{own}{TOKEN} HTTP/1.1"), own, 400),
        (format!("CONNECT {own}:80 HTTP/1.1"), own, 400),
        (
            "GET /metadata/%2e%2e/metadata/versions HTTP/1.1".into(),
            own,
            400,
        ),
        ("GET /metadata%2fversions HTTP/1.1".into(), own, 400),
        ("GET /metadata/%2576ersions HTTP/1.1".into(), own, 400),
        ("GET /metadata//versions HTTP/1.1".into(), own, 200),
        (format!("GET /{} HTTP/1.1", "a".repeat(9000)), own, 414),
    ] {
        let answer = once(&world, &head(&line, host));
        assert_eq!(answer.status, status, "{line} {host}: {}", answer.text());
    }
    // A head alone for HEAD: nothing behind it that the next reader would take for an answer.
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    let head = head(&line("HEAD", "1.1"), own);
    caller.send(head.as_bytes()).unwrap();
    let bytes = String::from_utf8(caller.rest().unwrap()).unwrap();
    assert!(bytes.starts_with("HTTP/1.1 405 "), "{bytes}");
    assert!(bytes.ends_with("\r\n\r\n"), "a body behind a HEAD: {bytes}");
    drop(agent);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn pipelined_requests_are_judged_one_by_one_and_answered_in_order() {
    let world = world("pipelined");
    let agent = world
        .agent()
        .config(&config("enforce", MINTS))
        .start()
        .unwrap();
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    let graph = TOKEN.replace("vault.azure.net", "graph.microsoft.com");
    let all = [get(TOKEN), get(&graph), get(LOCATION)].concat();
    caller.send(all.as_bytes()).unwrap();
    assert_eq!(statuses(&mut caller, 3), [200, 403, 200]);
    // Behind a violation nobody knows where a request begins: what was asked before is answered, what comes behind isn't.
    let all = [
        get(TOKEN),
        get(LOCATION).replace("Metadata: true", "Transfer-Encoding: chunked"),
        get(TOKEN),
    ];
    caller.send(all.concat().as_bytes()).unwrap();
    assert_eq!(statuses(&mut caller, 2), [200, 400]);
    assert!(caller.rest().unwrap().is_empty());
    let exchanges = agent.audit().wait_exchanges(5).unwrap();
    assert_eq!(exchanges.len(), 5, "one record for each");
}

fn statuses(caller: &mut Caller, count: usize) -> Vec<u16> {
    (0..count)
        .map(|_| caller.response().unwrap().status)
        .collect()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn http_1_0_closes_unless_asked_to_keep() {
    let world = world("one-zero");
    let _agent = world
        .agent()
        .config(&format!("{COMMON}{MINTS}"))
        .start()
        .unwrap();
    let billing = world.workload("billing");
    let mut caller = billing.connect(AZURE_IMDS).unwrap();
    let old = get(LOCATION).replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(ask(&mut caller, &old).text(), "westeurope");
    assert!(caller.rest().unwrap().is_empty());
    let mut caller = billing.connect(AZURE_IMDS).unwrap();
    let kept = old.replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(ask(&mut caller, &kept).status, 200);
    assert_eq!(ask(&mut caller, &kept).status, 200);
}
