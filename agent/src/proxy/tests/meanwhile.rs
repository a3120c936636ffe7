//! What happens while an answer is on its way, and whose it is: tokens of templates, callers that change or leave, policies that change,
//! records that can't be written, answers that are not what was asked for.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::host::{Host, POLICY, TOKEN, TOKEN_TARGET, get, ourselves};
use super::{on, with};
use imds_guard_ebpf::CallerRecord;

/// Many tenants by one workload, each with a `sub` of its own.
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
selectors = ["unix:user:tenant-{tenant}"]

[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "tenant"
"#;

#[tokio::test]
async fn two_callers_of_one_template_never_share_a_token() {
    with(TENANTS, 64, async |host| {
        let jti = |at: usize| host.audit()[at]["credential"]["jti"].clone();
        *host.guard.attested.lock().unwrap() = "unix:user:tenant-a";
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
        *host.guard.attested.lock().unwrap() = "unix:user:tenant-b";
        host.record(Some(CallerRecord {
            exe_inode: 2,
            ..ourselves()
        }));
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
        assert_ne!(jti(0), jti(1), "one tenant got the token of another");
        // The positive twin: another process of the same tenant is served from the cache.
        *host.guard.attested.lock().unwrap() = "unix:user:tenant-a";
        host.record(Some(CallerRecord {
            exe_inode: 3,
            ..ourselves()
        }));
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
        assert_eq!(jti(0), jti(2));
    })
    .await;
}

/// The same grant, resting on the executable.
fn by_executable() -> String {
    POLICY.replace(
        r#"selectors = ["unix:user:billing"]"#,
        r#"selectors = ["unix:user:billing", "unix:path:/usr/bin/billing"]"#,
    )
}

#[tokio::test]
async fn a_caller_that_execs_while_its_token_is_fetched_gets_none() {
    with(&by_executable(), 64, async |host| {
        *host.guard.attested.lock().unwrap() = "unix:user:billing unix:path:/usr/bin/billing";
        let mut caller = host.connect().await;
        caller
            .ask("/metadata/instance?api-version=2021-02-01")
            .await;
        let before = host.guard.rechecks.load(SeqCst);
        host.guard.execs_after_sign.store(true, SeqCst);
        let answered = caller.ask(TOKEN_TARGET).await;
        assert_eq!(host.guard.signs.load(SeqCst), 1, "it was signed");
        assert_eq!(answered.status, 403, "{}", answered.body);
        assert!(answered.body.contains("ended or changed"));
        assert!(!answered.body.contains("canary"));
        assert_eq!(host.guard.rechecks.load(SeqCst), before + 2);
        let line = &host.audit()[1];
        assert!(line["credential"].is_null(), "it was given none: {line}");
        // The positive twin: one that still runs what it was recorded with gets the token that was fetched.
        host.guard.execs_after_sign.store(false, SeqCst);
        *host.guard.refuse.lock().unwrap() = None;
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
        assert!(host.audit()[2]["credential"]["jti"].is_string());
    })
    .await;
}

/// The first request of a process waits for its attestation. What needs nothing else is no less judged by the policy that came
/// meanwhile.
#[tokio::test]
async fn a_policy_that_comes_while_the_caller_is_attested_decides_about_a_document_too() {
    let read = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
    for (from, to, status) in [
        ("lifetime = \"1h\"", "lifetime = \"1h\" # as before", 200),
        (
            "azure:/metadata/instance/**",
            "azure:/metadata/attested/**",
            403,
        ),
        ("web-07\" }", "web-08\" }", 504),
    ] {
        assert!(POLICY.contains(from), "{from}");
        on(async |host| {
            *host.guard.slow.lock().unwrap() = Duration::from_millis(300);
            let mut caller = host.connect().await;
            caller.send(&get(read)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            host.guard.push(2, &POLICY.replace(from, to));
            let answered = caller.answer().await;
            assert_eq!(answered.status, status, "{to}: {}", answered.body);
        })
        .await;
    }
}

#[tokio::test]
async fn a_policy_that_grants_another_identity_meanwhile_takes_the_token_of_the_old_one_back() {
    for (from, to, status) in [
        ("lifetime = \"1h\"", "lifetime = \"1h\" # as before", 200),
        ("client_id = \"1", "client_id = \"2", 504),
        ("workload/{workload}", "w/{workload}", 504),
    ] {
        on(async |host| {
            let mut caller = host.connect().await;
            caller
                .ask("/metadata/instance?api-version=2021-02-01")
                .await;
            *host.guard.slow.lock().unwrap() = Duration::from_millis(300);
            caller.send(&get(TOKEN_TARGET)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            host.guard.push(2, &POLICY.replace(from, to));
            let answered = caller.answer().await;
            assert_eq!(answered.status, status, "{to}: {}", answered.body);
            assert_eq!(answered.body.contains("canary"), status == 200, "{to}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_caller_that_breaks_off_within_a_body_is_recorded_too() {
    let policy = POLICY.replace(
        r#"read = ["azure:/metadata/instance/**"]
document = "web""#,
        r#"write = ["azure:/metadata/scheduledevents"]"#,
    );
    with(&policy, 64, async |host| {
        let mut caller = host.connect().await;
        caller
            .send(b"POST /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 10\r\n\r\n{")
            .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        caller.0.set_zero_linger().unwrap();
        drop(caller);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let records = host.audit();
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0]["outcome"], "aborted");
    })
    .await;
}

#[tokio::test]
async fn nothing_that_holds_a_token_shows_it_to_a_debugger_of_logs() {
    on(async |host| {
        let answered = host.connect().await.ask(TOKEN_TARGET).await;
        assert!(answered.body.contains(TOKEN));
        let shown = format!("{:?}", host.proxy);
        assert!(shown.contains("billing"), "it does show what it holds");
        assert!(!shown.contains("canary"), "{shown}");
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_ends_while_its_token_is_fetched_gets_none() {
    for ends in [false, true] {
        on(async |host| {
            let mut process = std::process::Command::new("sleep")
                .arg("60")
                .spawn()
                .unwrap();
            host.guard.pid.store(process.id(), SeqCst);
            host.record(Some(CallerRecord {
                tgid: process.id(),
                ..ourselves()
            }));
            let mut caller = host.connect().await;
            caller
                .ask("/metadata/instance?api-version=2021-02-01")
                .await;
            *host.guard.slow.lock().unwrap() = Duration::from_millis(300);
            caller.send(&get(TOKEN_TARGET)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if ends {
                process.kill().unwrap();
            }
            let answered = caller.answer().await;
            assert_eq!(host.guard.signs.load(SeqCst), 1, "it was signed");
            assert_eq!(
                answered.status,
                if ends { 403 } else { 200 },
                "{}",
                answered.body
            );
            assert_eq!(answered.body.contains("canary"), !ends);
            process.kill().unwrap();
            process.wait().unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn an_attestation_of_another_process_is_nobodys() {
    on(async |host| {
        host.record(Some(CallerRecord {
            start_boottime: 43,
            ..ourselves()
        }));
        let answered = host.connect().await.ask(TOKEN_TARGET).await;
        assert_eq!(answered.status, 500, "{}", answered.body);
        assert_eq!(host.guard.signs.load(SeqCst), 0);
        host.record(Some(ourselves()));
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn while_records_cannot_be_written_no_credential_is_given_and_reads_go_on() {
    let local = tokio::task::LocalSet::new();
    let test = async {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let host = Host::start_audited(POLICY, 64, full).await;
        let mut caller = host.connect().await;
        let read = "/metadata/instance?api-version=2021-02-01";
        assert_eq!(caller.ask(read).await.status, 200);
        host.proxy.sink.flush();
        let refused = caller.ask(TOKEN_TARGET).await;
        assert_eq!(refused.status, 500, "{}", refused.body);
        assert_eq!(host.guard.signs.load(SeqCst), 0);
        assert_eq!(caller.ask(read).await.status, 200);
    };
    local.run_until(test).await;
}

/// Without us, an ungranted request would go out as its caller can, or nowhere. With us it must not go out as we can.
#[tokio::test]
async fn audit_mode_forwards_over_no_socket_of_the_hosts() {
    let policy = POLICY.replace(
        "[issuer]",
        "[endpoints]\nazure-imds = \"audit\"\n\n[issuer]",
    );
    with(&policy, 64, async |host| {
        let ungranted = TOKEN_TARGET.replace("vault", "management");
        // The guard of these tests opens no socket in anybody's place.
        let answered = host.connect().await.ask(&ungranted).await;
        assert_eq!(answered.status, 502, "{}", answered.body);
        assert_eq!(
            host.connect().await.ask(TOKEN_TARGET).await.status,
            200,
            "what a rule mints needs none"
        );
        let record = &host.audit()[0];
        assert_eq!(record["would_deny"]["reason"], "no_rule");
        assert_eq!(record["reason"], "out_of_reach");
    })
    .await;
}

/// The guard decides by its own policy: where that is ahead of ours, what it signs is not what our caller was granted.
#[tokio::test]
async fn a_token_for_another_audience_is_not_given() {
    on(async |host| {
        host.guard.signs_for_another.store(true, SeqCst);
        let answered = host.connect().await.ask(TOKEN_TARGET).await;
        assert_eq!(answered.status, 500, "{}", answered.body);
        assert!(!answered.body.contains("canary"));
        host.guard.signs_for_another.store(false, SeqCst);
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
    })
    .await;
}

/// A grant that is forwarded, at an endpoint on loopback where the real service's place is taken by the test.
fn forwarding(port: u16) -> String {
    format!(
        r#"
[[endpoint]]
name = "here"
cloud = "azure"
address = ["127.0.0.1:{port}"]

[identity.node]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"

[[workload]]
name = "billing-api"
selectors = ["unix:user:billing"]

[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "node"
"#
    )
}

#[tokio::test]
async fn a_forwarded_token_is_of_the_pinned_identity_and_leaves_no_trace() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    with(&forwarding(port), 64, async |host| {
        host.may_dial();
        host.record(Some(CallerRecord {
            address: imds_guard_ebpf::mapped([127, 0, 0, 1]),
            port,
            ..ourselves()
        }));
        let serve = async {
            let (mut stream, _) = service.accept().await.unwrap();
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let body = format!(r#"{{"access_token":"{TOKEN}"}}"#);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: canary-of-a-cookie\r\nTransfer-Encoding: chunked\r\nX-Trace: canary\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            (String::from_utf8(head).unwrap(), stream)
        };
        let ask = async {
            let mut caller = host.connect().await;
            let from = |target: &str| {
                format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nMetadata: True\r\nUser-Agent: evil\r\nCookie: canary-of-a-caller\r\n\r\n")
            };
            // Another identity than the pinned one never gets as far as the service.
            let other = format!("{TOKEN_TARGET}&client_id=99999999-2222-3333-4444-555555555555");
            caller.send(from(&other).as_bytes()).await;
            assert_eq!(caller.answer().await.status, 403);
            caller.send(from(TOKEN_TARGET).as_bytes()).await;
            caller.answer().await
        };
        let ((sent, _stream), answered) = tokio::join!(serve, ask);
        assert_eq!(answered.status, 200, "{}", answered.body);
        assert!(answered.body.contains(TOKEN));
        assert!(!answered.head.contains("canary"), "{}", answered.head);
        assert!(answered.head.contains("cache-control: no-store"));
        assert!(sent.contains("&client_id=11111111-2222-3333-4444-555555555555 "), "{sent}");
        assert!(!sent.contains("canary") && !sent.contains("evil"), "{sent}");
        assert_eq!(host.audit().len(), 2);
        assert!(!host.audit_text().contains("canary"));
    })
    .await;
}

#[tokio::test]
async fn under_a_new_policy_a_known_process_is_attested_anew() {
    on(async |host| {
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
        assert_eq!(host.guard.attests.load(SeqCst), 1);
        *host.guard.attested.lock().unwrap() = "unix:user:other";
        host.guard.push(2, POLICY);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 403);
        assert_eq!(host.guard.attests.load(SeqCst), 2);
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_the_connection_that_it_is_of_with_a_record_and_no_other() {
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = service.local_addr().unwrap().port();
    with(&forwarding(port), 16, async |host| {
        host.record(Some(CallerRecord {
            address: imds_guard_ebpf::mapped([127, 0, 0, 1]),
            port,
            ..ourselves()
        }));
        let from = |target: &str| {
            format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nMetadata: true\r\n\r\n")
                .into_bytes()
        };
        let (target, denied) = (
            from(TOKEN_TARGET),
            from(&TOKEN_TARGET.replace("vault", "other")),
        );
        let mut other = host.connect().await;
        other.send(&denied).await;
        assert_eq!(other.answer().await.status, 403);
        // More of them than there are seats.
        for _ in 0..8 {
            let mut caller = host.connect().await;
            // Accepted, and in the middle of its exchange by the time that the defect shows.
            caller.send(&denied).await;
            assert_eq!(caller.answer().await.status, 403);
            host.panics(true);
            caller.send(&target).await;
            assert!(caller.is_closed().await);
            // Before anything is known of a caller.
            assert!(host.connect().await.is_closed().await);
            host.panics(false);
        }
        let aborted = host
            .audit()
            .iter()
            .filter(|r| r["outcome"] == "aborted")
            .count();
        assert_eq!(aborted, 8, "{}", host.audit_text());
        // The others go on, and it doesn't stick to what is shared: the next flight is a flight.
        other.send(&target).await;
        let status = other.answer().await.status;
        assert!(status >= 500, "{status}: {}", host.audit_text());
    })
    .await;
}
