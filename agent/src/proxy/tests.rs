//! The proxy as callers see it: bytes in, bytes and audit records out.

mod host;

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use host::{Host, POLICY, TOKEN, TOKEN_TARGET, get, ourselves};
use imds_guard_core::decision::DenyReason;
use imds_guard_core::seam::Refusal;
use imds_guard_ebpf::CallerRecord;

async fn on<T>(test: impl AsyncFnOnce(Host) -> T) -> T {
    with(POLICY, 64, test).await
}

async fn with<T>(policy: &str, most: usize, test: impl AsyncFnOnce(Host) -> T) -> T {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async { test(Host::start(policy, most).await).await })
        .await
}

#[tokio::test]
async fn a_granted_token_comes_in_azures_shape_and_is_recorded_without_it() {
    on(async |host| {
        let mut caller = host.connect().await;
        let answered = caller.ask(TOKEN_TARGET).await;
        assert_eq!(answered.status, 200, "{}", answered.body);
        let body: serde_json::Value = serde_json::from_str(&answered.body).unwrap();
        assert_eq!(body["access_token"], TOKEN);
        assert_eq!(body["resource"], "https://vault.azure.net");
        assert_eq!(body["expires_in"], "3600");
        assert!(answered.head.contains("cache-control: no-store"));
        let [record] = &host.audit()[..] else {
            panic!("{:?}", host.audit())
        };
        assert_eq!(record["outcome"], "allowed");
        assert_eq!(record["workload"], "billing-api");
        assert_eq!(record["credential"]["jti"], "jti-0");
        assert_eq!(record["caller"]["pid"], std::process::id());
        assert!(!host.audit_text().contains("canary"));
    })
    .await;
}

#[tokio::test]
async fn a_cached_token_is_given_again_with_what_is_left_of_it() {
    on(async |host| {
        let mut caller = host.connect().await;
        caller.ask(TOKEN_TARGET).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let again = caller.ask(TOKEN_TARGET).await;
        let body: serde_json::Value = serde_json::from_str(&again.body).unwrap();
        let left: u32 = body["expires_in"].as_str().unwrap().parse().unwrap();
        assert!((3597..3600).contains(&left), "{left}");
        assert_eq!(host.guard.signs.load(SeqCst), 1);
        assert_eq!(host.audit()[1]["credential"]["cached"], true);
        caller
            .ask(&format!("{TOKEN_TARGET}&bypass_cache=true"))
            .await;
        assert_eq!(
            host.guard.signs.load(SeqCst),
            2,
            "who insists gets a new one"
        );
    })
    .await;
}

#[tokio::test]
async fn a_hundred_connections_of_one_process_cost_one_attestation() {
    on(async |host| {
        *host.guard.slow.lock().unwrap() = Duration::from_millis(50);
        let mut callers = vec![];
        for _ in 0..10 {
            let mut caller = host.connect().await;
            caller
                .send(&get("/metadata/instance?api-version=2021-02-01"))
                .await;
            callers.push(caller);
        }
        for mut caller in callers {
            let answered = caller.answer().await;
            assert_eq!(answered.status, 200);
            assert!(answered.body.contains("westeurope"));
        }
        assert_eq!(host.guard.attests.load(SeqCst), 1);
        assert_eq!(host.audit().len(), 10);
    })
    .await;
}

#[tokio::test]
async fn what_policy_does_not_grant_is_refused_in_azures_words_and_the_connection_goes_on() {
    on(async |host| {
        let mut caller = host.connect().await;
        let other = TOKEN_TARGET.replace("vault", "management");
        let answered = caller.ask(&other).await;
        assert_eq!(answered.status, 403);
        assert!(answered.body.contains("access_denied"), "{}", answered.body);
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
        let records = host.audit();
        assert_eq!(records[0]["outcome"], "denied");
        assert_eq!(records[0]["denial"]["reason"], "no_rule");
        assert_eq!(
            host.guard.signs.load(SeqCst),
            1,
            "nothing was signed for it"
        );
    })
    .await;
}

#[tokio::test]
async fn without_a_record_there_is_a_refusal_and_nothing_else() {
    on(async |host| {
        host.record(None);
        let mut caller = host.connect().await;
        caller.send(&get(TOKEN_TARGET)).await;
        let answered = caller.answer().await;
        assert_eq!(answered.status, 403);
        assert!(answered.body.contains("could not be identified"));
        assert!(caller.is_closed().await);
        assert_eq!(host.guard.attests.load(SeqCst), 0);
        let records = host.audit();
        assert_eq!(
            (records.len(), &records[0]["reason"]),
            (1, &"unattributed".into())
        );
    })
    .await;
}

#[tokio::test]
async fn a_process_that_is_not_what_it_was_recorded_as_gets_nothing() {
    let now = ourselves();
    for other in [
        CallerRecord {
            cgroup_id: now.cgroup_id + 1,
            ..now
        },
        CallerRecord {
            uid: now.uid + 1,
            ..now
        },
        CallerRecord {
            gid: now.gid + 1,
            ..now
        },
        CallerRecord {
            effective_uid: now.effective_uid + 1,
            ..now
        },
        CallerRecord {
            effective_gid: now.effective_gid + 1,
            ..now
        },
    ] {
        on(async |host| {
            host.record(Some(other));
            let answered = host.connect().await.ask(TOKEN_TARGET).await;
            assert_eq!(answered.status, 403, "{other:?}");
            assert!(
                answered.body.contains("ended or changed"),
                "{}",
                answered.body
            );
            assert_eq!(host.guard.signs.load(SeqCst), 0);
            assert_eq!(host.audit()[0]["reason"], "caller_changed");
        })
        .await;
    }
}

#[tokio::test]
async fn a_malformed_request_is_refused_without_asking_anyone() {
    on(async |host| {
        let mut caller = host.connect().await;
        caller
            .send(b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
            .await;
        let answered = caller.answer().await;
        assert_eq!(answered.status, 400);
        assert!(answered.body.contains("Required metadata header not specified"));
        assert_eq!(host.guard.attests.load(SeqCst), 0);
        assert_eq!(host.audit()[0]["reason"], "metadata_header_missing");
    })
    .await;
}

#[tokio::test]
async fn a_violation_is_answered_after_what_came_before_it_and_closes() {
    on(async |host| {
        let mut caller = host.connect().await;
        let smuggled = b"GET /a HTTP/1.1\r\nHost: 169.254.169.254\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n";
        caller
            .send(&[&get(TOKEN_TARGET), &smuggled[..], &get(TOKEN_TARGET)].concat())
            .await;
        assert_eq!(caller.answer().await.status, 200);
        let refused = caller.answer().await;
        assert_eq!(refused.status, 400);
        assert!(refused.head.contains("Connection: close"));
        assert!(caller.is_closed().await);
        let records = host.audit();
        assert_eq!(records.len(), 2, "what came after it was never a request");
        assert_eq!(records[1]["reason"], "transfer_encoding");
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_each_recorded() {
    on(async |host| {
        let mut caller = host.connect().await;
        let both = [
            get(TOKEN_TARGET),
            get("/metadata/instance/compute/name?api-version=2021-02-01&format=text"),
        ];
        caller.send(&both.concat()).await;
        assert!(caller.answer().await.body.contains("access_token"));
        assert_eq!(caller.answer().await.body, "web-07");
        assert_eq!(host.audit().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_changed_policy_judges_the_next_request_of_a_live_connection() {
    on(async |host| {
        let mut caller = host.connect().await;
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
        let without = POLICY.replace("https://vault.azure.net", "https://elsewhere.example");
        host.guard.push(2, &without);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 403);
        host.guard.push(3, POLICY);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
        assert_eq!(
            host.guard.signs.load(SeqCst),
            2,
            "the old epoch's token is not served"
        );
        assert_eq!(host.audit()[2]["epoch"], 3);
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_changes_while_the_guard_signs_decides_about_what_comes_back() {
    on(async |host| {
        let mut caller = host.connect().await;
        caller
            .ask("/metadata/instance?api-version=2021-02-01")
            .await;
        *host.guard.slow.lock().unwrap() = Duration::from_millis(300);
        caller.send(&get(TOKEN_TARGET)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let without = POLICY.replace("https://vault.azure.net", "https://elsewhere.example");
        host.guard.push(2, &without);
        let answered = caller.answer().await;
        assert_eq!(answered.status, 403, "{}", answered.body);
        assert!(!answered.body.contains("canary"));
    })
    .await;
}

#[tokio::test]
async fn the_guards_no_reaches_the_caller_without_its_reasons() {
    for (refusal, status) in [
        (Refusal::Denied(DenyReason::NoRule), 403),
        (Refusal::CallerGone, 403),
        (Refusal::Unattributed, 403),
        (Refusal::NoKey, 500),
        (Refusal::Busy, 504),
    ] {
        on(async |host| {
            *host.guard.refuse.lock().unwrap() = Some(refusal);
            let answered = host.connect().await.ask(TOKEN_TARGET).await;
            assert_eq!(answered.status, status, "{refusal:?}");
            assert_eq!(host.audit()[0]["status"], status);
        })
        .await;
    }
}

#[tokio::test]
async fn a_rules_limit_is_hit_and_says_when_to_come_back() {
    on(async |host| {
        let limited = TOKEN_TARGET.replace("https://vault.azure.net", "https://limited.example");
        let mut caller = host.connect().await;
        assert_eq!(caller.ask(&limited).await.status, 200);
        assert_eq!(caller.ask(&limited).await.status, 200);
        let third = caller.ask(&limited).await;
        assert_eq!(third.status, 429);
        assert!(third.head.contains("retry-after: 3"), "{}", third.head);
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200, "another rule");
        assert_eq!(host.audit()[2]["outcome"], "throttled");
    })
    .await;
}

#[tokio::test]
async fn one_caller_cannot_take_all_connections() {
    with(POLICY, 16, async |host| {
        let mut held = vec![];
        for _ in 0..4 {
            let mut caller = host.connect().await;
            assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
            held.push(caller);
        }
        let mut fifth = host.connect().await;
        assert_eq!(fifth.answer().await.status, 429);
        host.record(Some(CallerRecord {
            cgroup_id: 7,
            ..ourselves()
        }));
        let other = host.connect().await.ask(TOKEN_TARGET).await;
        assert_eq!(
            other.status, 403,
            "another identity is served (and refused by what it is)"
        );
        drop(held);
        tokio::time::sleep(Duration::from_millis(100)).await;
        host.record(Some(ourselves()));
        assert_eq!(host.connect().await.ask(TOKEN_TARGET).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_is_recorded_too() {
    on(async |host| {
        *host.guard.slow.lock().unwrap() = Duration::from_millis(100);
        let mut caller = host.connect().await;
        caller.send(&get(TOKEN_TARGET)).await;
        drop(caller);
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(host.audit().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_caller_is_answered_and_closed() {
    on(async |host| {
        let mut caller = host.connect().await;
        let request = String::from_utf8(get(TOKEN_TARGET))
            .unwrap()
            .replace("HTTP/1.1", "HTTP/1.0");
        caller.send(request.as_bytes()).await;
        assert_eq!(caller.answer().await.status, 200);
        assert!(caller.is_closed().await);
    })
    .await;
}

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
        // The positive twin: one that still runs what it was recorded with gets the token that was fetched.
        host.guard.execs_after_sign.store(false, SeqCst);
        *host.guard.refuse.lock().unwrap() = None;
        assert_eq!(caller.ask(TOKEN_TARGET).await.status, 200);
    })
    .await;
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

/// Without us, an ungranted request from another network namespace would go out there, or nowhere. With us it must not
/// go out here.
#[tokio::test]
async fn audit_mode_forwards_nothing_for_another_network_namespace() {
    let policy = POLICY.replace(
        "[issuer]",
        "[endpoints]\nazure-imds = \"audit\"\n\n[issuer]",
    );
    with(&policy, 64, async |host| {
        let ungranted = TOKEN_TARGET.replace("vault", "management");
        // From here it would be forwarded: the host of these tests lets no socket be marked.
        assert_eq!(host.connect().await.ask(&ungranted).await.status, 500);
        host.record(Some(CallerRecord {
            netns_cookie: 5,
            ..ourselves()
        }));
        let answered = host.connect().await.ask(&ungranted).await;
        assert_eq!(answered.status, 404, "{}", answered.body);
        assert_eq!(
            host.connect().await.ask(TOKEN_TARGET).await.status,
            200,
            "what is granted is given wherever the caller is"
        );
        assert_eq!(host.audit()[1]["would_deny"]["reason"], "no_rule");
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
