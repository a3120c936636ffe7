//! Requests that can be read in two ways, or that say more than they may: each is sent by a real process through the loaded
//! programs, and what the real service received, and what came back, decides.

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{AZURE_IMDS, Caller, FakeAzure, UPSTREAM_TOKEN, World, claims, require};
use std::fs;
use std::time::{Duration, Instant};

use super::{INSTANCE, TOKEN, agent, get, python};

/// Uid 1000 reads what the machine is, of the real service; uid 1002 may have a token of it.
const FORWARDS: &str = r#"
    [identity.real]
    cloud = "azure"
    source = "forward"
    client_id = "11111111-2222-3333-4444-555555555555"
    [[workload]]
    name = "reader"
    selectors = ["unix:uid:1000"]
    [[workload.allow]]
    read = ["azure:/metadata/instance/compute/location"]
    [[workload]]
    name = "trusted"
    selectors = ["unix:uid:1002"]
    [[workload.allow]]
    token = { cloud = "azure", resource = ["https://vault.azure.net"] }
    identity = "real"
"#;

/// All that is answered until it is closed, or for a moment.
fn all_of(mut caller: Caller, bytes: &[u8]) -> Result<String> {
    // Who is refused before it has sent everything may be gone by then; what it was told stands in the pipe.
    let _taken_to_its_end = caller.send(bytes);
    Ok(String::from_utf8_lossy(&caller.rest()?).into_owned())
}

/// By (what is wrong, the bytes between the request line's end and the head's, whether the head is one at all).
const HEADS: [(&str, &str); 16] = [
    (
        "two lengths",
        "Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
    ),
    ("a list of lengths", "Content-Length: 0, 60\r\n\r\n"),
    ("a length with a sign", "Content-Length: +60\r\n\r\n"),
    (
        "chunks",
        "Transfer-Encoding: chunked\r\n\r\n0;x=\"\r\n\"\r\n\r\n",
    ),
    (
        "chunks and a length",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks in disguise",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunks before a colon",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a folded line", "X-A: b\r\n c: d\r\n\r\n"),
    ("a bare line feed", "X-A: b\nContent-Length: 60\r\n\r\n"),
    (
        "a bare carriage return",
        "X-A: b\rContent-Length: 60\r\n\r\n",
    ),
    ("a NUL", "X-A: b\0\r\n\r\n"),
    ("a line without a colon", "Content-Length\r\n\r\n"),
    ("a name with a space", "Content Length: 60\r\n\r\n"),
    ("a body where none goes", "Content-Length: 60\r\n\r\n"),
    (
        "HTTP/2 by Upgrade",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    ),
    (
        "WebSocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==\r\n\r\n",
    ),
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_head_with_two_meanings_has_none_and_what_it_hides_is_no_request() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("smuggling")?;
    let azure = world.azure()?;
    let agent = world.agent().config(FORWARDS).start()?;
    let trusted = world.workload("trusted").uid(1002);
    let plain = String::from_utf8(get(TOKEN))?;
    let begun = plain.strip_suffix("\r\n").context("a head")?;
    for (name, wrong) in HEADS {
        // Behind it a request that would be granted, had it a beginning.
        let bytes = format!("{begun}{wrong}{plain}");
        let said = all_of(trusted.connect(AZURE_IMDS)?, bytes.as_bytes())?;
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{name}: {said}");
        assert!(said.starts_with("HTTP/1.1 400 "), "{name}: {said}");
        assert!(said.contains("Connection: close"), "{name}: {said}");
    }
    for line in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        "GET http://168.63.129.16/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    ] {
        let said = all_of(
            trusted.connect(AZURE_IMDS)?,
            format!("{line}{plain}").as_bytes(),
        )?;
        assert!(said.starts_with("HTTP/1.1 400 "), "{line}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{line}: {said}");
    }
    assert!(azure.received().is_empty(), "{:?}", azure.received());
    agent.audit().wait_exchanges(HEADS.len() + 4)?;
    assert_eq!(trusted.get(TOKEN)?.status, 200);
    assert_eq!(azure.received().len(), 1);
    Ok(())
}

/// Targets by which somebody who may read where the machine is could get at something else.
const TARGETS: [&str; 35] = [
    // The path.
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net",
    "/metadata/instance/compute/location/../../../identity/oauth2/token?api-version=2018-02-01&resource=r",
    "/metadata/instance/compute/location/..%2f..%2f..%2fidentity/oauth2/token?api-version=2018-02-01&resource=r",
    "/metadata/instance/compute/location/%2e%2e/%2e%2e/%2e%2e/identity/oauth2/token?api-version=2018-02-01&resource=r",
    "/metadata/instance/compute/location/%252e%252e/%252e%252e/%252e%252e/identity/oauth2/token?api-version=2018-02-01",
    "/metadata/instance/compute/location/..;/..;/userData?api-version=2021-02-01",
    "/metadata/instance/compute/location;/../userData?api-version=2021-02-01",
    "/metadata/instance/compute/location/./../userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/location%00/userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/location%3f/userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/location\\..\\userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/location%5c..%5cuserData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/location/x/..%c0%af../userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/%EF%BC%8E%EF%BC%8E/userData?api-version=2021-02-01&format=text",
    "/metadata/instance/compute/locatio%6e/..?api-version=2021-02-01",
    "/metadata/instance/compute/Location.?api-version=2021-02-01&format=text",
    "/metadata/instance/compute?api-version=2021-02-01",
    "/metadata/instance/compute/userData?api-version=2021-02-01&format=text",
    "/METADATA/Instance/COMPUTE/USERDATA?api-version=2021-02-01&format=text",
    "//metadata//instance//compute//userData?api-version=2021-02-01&format=text",
    "/metadata/instance?api-version=2021-02-01",
    "/metadata/instance?api-version=2021-02-01&path=/compute/location",
    "/latest/meta-data/iam/security-credentials/",
    "/computeMetadata/v1/instance/service-accounts/default/token",
    "/machine?comp=goalstate",
    // The query.
    "/metadata/instance/compute/location?api-version=2021-02-01&format=text&format=json",
    "/metadata/instance/compute/location?api-version=2021-02-01&format=text&FORMAT=json",
    "/metadata/instance/compute/location?api-version=2021-02-01&api-version=2017-04-02&format=text",
    "/metadata/instance/compute/location?api-version=2021-02-01&format=te%78t%26recursive=true",
    "/metadata/instance/compute/location?api-version=2021-02-01%00&format=text",
    "/metadata/instance/compute/location?api-version=2021-02-01&format=text;resource=r",
    // Lines that an open redirect or a template would put into the head.
    "/metadata/instance/compute/location?api-version=2021-02-01&format=text%0d%0aX-Evil:%201",
    "/metadata/instance/compute/location%0d%0a%0d%0aGET%20/metadata/identity/oauth2/token?api-version=2018-02-01",
    "/metadata/instance/compute/location?api-version=2021-02-01&format=text%20HTTP/1.1%0aHost:x",
    "/metadata/instance/compute/location?api-version=%0a2021-02-01&format=text",
];

/// What the real service may have been asked by who may read that one leaf: whatever was in the request, it is this.
const LEAF: &str =
    "GET /metadata/instance/compute/location?api-version=2021-02-01&format=text HTTP/1.1";

fn nothing_but_the_leaf(azure: &FakeAzure, target: &str) -> Result<()> {
    for request in azure.received() {
        let same = request.line.replace(
            "format=text&api-version=2021-02-01",
            "api-version=2021-02-01&format=text",
        );
        ensure!(same == LEAF, "{target}: {}", request.line);
        ensure!(
            request.headers.len() == 2,
            "{target}: {:?}",
            request.headers
        );
    }
    Ok(())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn no_way_to_write_a_path_or_a_query_asks_for_what_is_not_granted() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("targets")?;
    let azure = world.azure()?;
    let _agent = world.agent().config(FORWARDS).start()?;
    let reader = world.workload("reader");
    assert_eq!(reader.get(INSTANCE)?.status, 200);
    nothing_but_the_leaf(&azure, INSTANCE)?;
    assert_eq!(azure.received().len(), 1);
    for target in TARGETS {
        let said = all_of(
            reader.connect(AZURE_IMDS)?,
            &[get(target), get("/metadata/versions").replace_close()].concat(),
        )?;
        ensure!(!said.contains(UPSTREAM_TOKEN), "{target}: {said}");
        nothing_but_the_leaf(&azure, target)?;
        let first = said.split(' ').nth(1).unwrap_or_default();
        ensure!(first.starts_with('4') || first == "200", "{target}: {said}");
    }
    let trusted = world.workload("trusted").uid(1002);
    assert!(trusted.get(TOKEN)?.text().contains(UPSTREAM_TOKEN));
    Ok(())
}

/// The last request of a connection.
trait Last {
    fn replace_close(self) -> Self;
}

impl Last for Vec<u8> {
    fn replace_close(mut self) -> Self {
        self.truncate(self.len() - 2);
        self.extend_from_slice(b"Connection: close\r\n\r\n");
        self
    }
}

/// Requests that a page in a browser, or a server that fetches for others, makes: its name for us, and what it adds.
const FETCHED: [(&str, &str, u16); 10] = [
    ("rebound.evil.example", "", 403),
    ("169.254.169.254.nip.io", "", 403),
    ("localhost", "", 403),
    ("[::ffff:7f00:1]", "", 403),
    (
        "169.254.169.254",
        "Origin: http://rebound.evil.example\r\n",
        403,
    ),
    ("169.254.169.254", "Sec-Fetch-Site: same-origin\r\n", 403),
    ("169.254.169.254", "X-Forwarded-For: 10.0.0.1\r\n", 400),
    ("169.254.169.254", "X-Forwarded-For:\r\n", 400),
    ("169.254.169.254", "Via: 1.1 relay\r\n", 400),
    ("169.254.169.254", "Forwarded: for=10.0.0.1\r\n", 400),
];

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_a_browser_or_a_proxy_sends_is_refused_in_a_granted_workload_too() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("fetched")?;
    let azure = world.azure()?;
    let _agent = world.agent().config(FORWARDS).start()?;
    let trusted = world.workload("trusted").uid(1002);
    let ask = |host: &str, more: &str| -> Result<(u16, String)> {
        let mut caller = trusted.connect(AZURE_IMDS)?;
        let head = format!("GET {TOKEN} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n{more}\r\n");
        caller.send(head.as_bytes())?;
        let answer = caller.response()?;
        ensure!(answer.header("access-control-allow-origin").is_none());
        Ok((answer.status, answer.text()))
    };
    for (host, more, status) in FETCHED {
        let (got, text) = ask(host, more)?;
        assert_eq!(got, status, "{host} {more}: {text}");
    }
    // A simple form post and a fetch without our header: what a page can send without asking first.
    for simple in ["", "Content-Type: text/plain\r\n"] {
        let mut caller = trusted.connect(AZURE_IMDS)?;
        let head = format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\n{simple}\r\n");
        caller.send(head.as_bytes())?;
        assert_eq!(caller.response()?.status, 400);
    }
    assert!(azure.received().is_empty());
    assert_eq!(ask("169.254.169.254", "")?.0, 200);
    Ok(())
}

const TENANTS: &str = r#"
    [host]
    trust_domain = "example.org"
    name = "web-07"
    [issuer]
    url = "http://127.0.0.1:8787"
    [identity.tenant]
    cloud = "azure"
    source = "mint"
    subject = "spiffe://{trust_domain}/host/{host}/tenant/{tenant}"
    [[workload]]
    name = "tenants"
    selectors = ["cgroup:path:/WORLD/tenant-{tenant}.service"]
    [[workload.allow]]
    token = { cloud = "azure", resource = ["https://vault.azure.net", "https://storage.azure.com"] }
    identity = "tenant"
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_was_fetched_for_one_is_never_given_to_another() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("tenants")?;
    let policy = imds_guard_tests::cast::placed(&world, TENANTS)?;
    let _agent = world.agent().config(&policy).start()?;
    // The same rule, identity, user and resource: what differs is whose it is.
    let token = |tenant: &str, resource: &str| -> Result<serde_json::Value> {
        let answer = world
            .workload(&format!("tenant-{tenant}"))
            .get(&TOKEN.replace("vault.azure.net", resource))?;
        ensure!(answer.status == 200, "{}", answer.text());
        let token = answer.json()?["access_token"].clone();
        claims(token.as_str().context("no token")?)
    };
    let sub = |tenant: &str| format!("spiffe://example.org/host/web-07/tenant/{tenant}");
    let mut seen = vec![];
    for (tenant, resource) in [
        ("a", "vault.azure.net"),
        ("b", "vault.azure.net"),
        ("a", "storage.azure.com"),
        ("a", "vault.azure.net"),
        ("b", "vault.azure.net"),
    ] {
        let claims = token(tenant, resource)?;
        assert_eq!(claims["sub"], sub(tenant));
        let audience = claims["aud"].to_string();
        assert!(audience.contains(resource), "{audience}");
        seen.push(claims["jti"].clone());
    }
    assert_eq!(seen[0], seen[3], "a's own is kept for a");
    assert_eq!(seen[1], seen[4]);
    Ok(())
}

/// Called what no program is called, it asks for a path that nobody has, and says who it is in a header.
const FORGER: &str = r#"
libc = ctypes.CDLL(None)
libc.prctl(15, b"x\",\"uid\":0}\n{", 0, 0, 0)
for target in sys.argv[1:]:
    say(ask(connect(), target, "User-Agent: \"}{\"event\":\"exchange\"\r\n"))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn whatever_a_caller_calls_itself_stays_in_its_place_of_one_line() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("forger")?;
    let agent = agent(&world)?;
    let nobody = world.workload("forger").uid(1001);
    let targets = [
        TOKEN,
        "/metadata/instance/%22%7d%7b?api-version=2021-02-01",
        "/metadata/versions%0a{}",
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%22%7d%0a%7b%22event%22:%22signed%22",
    ];
    let said = python(&nobody, FORGER, &targets)?;
    let lines = agent.audit().wait_exchanges(targets.len())?;
    assert_eq!(lines.len(), targets.len(), "{said}");
    assert!(said.lines().all(|status| status.starts_with('4')), "{said}");
    let text = fs::read_to_string(world.directory().join("audit.jsonl"))?;
    assert_eq!(text.lines().count(), targets.len(), "{text}");
    for line in &lines {
        assert_eq!(line["caller"]["uid"], 1001, "{line}");
        let comm = line["caller"]["comm"].as_str().context("no name")?;
        assert!(comm.starts_with("x\",\"uid\":0}"), "{comm}");
    }
    // The log is for people: no line of it is the caller's, either.
    assert!(!agent.log().lines().any(|line| line.starts_with('{')));
    assert_eq!(world.workload("billing").get(TOKEN)?.status, 200);
    Ok(())
}

/// Sends a head byte by byte, and says what it was told, after how many seconds.
const SLOWLY: &str = r#"
s = connect()
begun = time.monotonic()
said = None
for byte in head():
    try:
        s.send(bytes([byte]))
        s.settimeout(0.1)
        said = answer(s)
        break
    except TimeoutError: pass
    except OSError: said = "closed"; break
say(said, int(time.monotonic() - begun))
"#;

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_head_that_never_ends_or_is_too_large_keeps_nobody_waiting() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("slowly")?;
    let _agent = agent(&world)?;
    let billing = world.workload("billing");
    let plain = String::from_utf8(get(TOKEN))?;
    let with = |more: &str| plain.replace("\r\n\r\n", &format!("\r\n{more}\r\n\r\n"));
    let many: Vec<String> = (0..500).map(|n| format!("X-{n}: x")).collect();
    let long = format!("X-Long: {}", "x".repeat(64 << 10));
    for (head, status) in [
        (with(&many.join("\r\n")), "431"),
        (with(&long), "431"),
        (
            plain.replace("/metadata", &format!("/{}", "m".repeat(64 << 10))),
            "414",
        ),
    ] {
        let said = all_of(billing.connect(AZURE_IMDS)?, head.as_bytes())?;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
    }
    std::thread::scope(|scope| -> Result<()> {
        let slow = scope.spawn(|| python(&billing, SLOWLY, &[]));
        // Its neighbour, of the same identity, is answered all the while.
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            assert_eq!(billing.get(TOKEN)?.status, 200);
        }
        let said = slow.join().expect("it panics where we would")?;
        assert!(
            said == "408 5\n" || said == "408 4\n" || said == "408 6\n",
            "{said}"
        );
        Ok(())
    })
}
