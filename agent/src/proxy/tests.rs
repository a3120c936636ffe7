//! The proxy as callers see it: bytes in, bytes and audit records out.

mod host;
mod meanwhile;
mod messages;

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
        assert!(answered.head.contains("Connection: close"));
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
async fn an_assertion_for_another_audience_goes_to_no_cloud() {
    let federated = |audience: &str| {
        let policy = POLICY.replace("http://127.0.0.1:8787", "https://issuer.example");
        let source = format!(
            "source = \"federate\"\naudience = \"{audience}\"\ntenant_id = \"11111111-2222-3333-4444-555555555555\""
        );
        let policy = policy.replace("source = \"mint\"", &source);
        policy.replace("lifetime = \"1h\"\n", "")
    };
    // The guard of these tests signs for the resource itself. Where that is what the identity says, the way to the cloud is
    // taken, and ends where no roots are.
    for (audience, status) in [
        ("api://AzureADTokenExchange", 500),
        ("https://vault.azure.net", 502),
    ] {
        with(&federated(audience), 64, async |host| {
            let answered = host.connect().await.ask(TOKEN_TARGET).await;
            assert_eq!(answered.status, status, "{audience}: {}", answered.body);
            assert_eq!(host.guard.signs.load(SeqCst), 1);
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
        let answered = fifth.answer().await;
        assert_eq!(answered.status, 429);
        assert!(answered.head.contains("Connection: close"));
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
