//! One message after the other on a connection: what becomes of it after each, and that each has its own line.

use super::host::{TOKEN_TARGET, get, ourselves};
use super::on;
use imds_guard_ebpf::CallerRecord;

const READ: &str = "/metadata/instance/compute?api-version=2021-02-01";

fn with_header(target: &str, header: &str) -> Vec<u8> {
    let mut request = get(target);
    request.truncate(request.len() - 2);
    [&request, header.as_bytes(), b"\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_connection_goes_on_until_the_caller_says_otherwise() {
    on(async |host| {
        let mut caller = host.connect().await;
        for _ in 0..3 {
            let answered = caller.ask(READ).await;
            assert_eq!(answered.status, 200);
            assert!(!answered.head.contains("connection:"), "{}", answered.head);
        }
        caller.send(&with_header(READ, "Connection: close")).await;
        let last = caller.answer().await;
        assert_eq!(last.status, 200);
        assert!(last.head.contains("connection: close"), "{}", last.head);
        assert!(caller.is_closed().await);
    })
    .await;
}

#[tokio::test]
async fn an_http_1_0_caller_that_asks_for_it_is_told_that_the_connection_goes_on() {
    on(async |host| {
        let mut caller = host.connect().await;
        let asking = String::from_utf8(with_header(READ, "Connection: keep-alive")).unwrap();
        let asking = asking.replace("HTTP/1.1", "HTTP/1.0");
        for _ in 0..2 {
            caller.send(asking.as_bytes()).await;
            let answered = caller.answer().await;
            assert_eq!(answered.status, 200);
            assert!(
                answered.head.contains("connection: keep-alive"),
                "{}",
                answered.head
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_head_is_a_head() {
    on(async |host| {
        let mut caller = host.connect().await;
        let head = String::from_utf8(get(READ))
            .unwrap()
            .replace("GET ", "HEAD ");
        let both = [head.as_bytes(), &get(READ)].concat();
        caller.send(&both).await;
        let refused = caller.head().await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        assert!(!refused.contains("content-length: 0"), "{refused}");
        // What comes next is the next answer, not the body of this one.
        assert_eq!(caller.answer().await.status, 200);
    })
    .await;
}

/// A body that is refused unread is no part of the next request, and does not keep the refusal from being read.
#[tokio::test]
async fn a_body_that_nobody_wants_is_left_out_or_ends_the_connection() {
    on(async |host| {
        let post = b"POST /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nContent-Length: 40\r\n\r\n";
        let mut caller = host.connect().await;
        caller.send(&[&post[..], &[b'G'; 40], &get(READ)].concat()).await;
        assert_eq!(caller.answer().await.status, 403);
        assert_eq!(caller.answer().await.status, 200);

        let mut caller = host.connect().await;
        caller.send(&[&post[..], &[b'G'; 39]].concat()).await;
        let refused = caller.answer().await;
        assert_eq!(refused.status, 403);
        assert!(refused.head.contains("connection: close"), "{}", refused.head);
        assert!(caller.is_closed().await);
        assert_eq!(host.audit().len(), 3, "{}", host.audit_text());
    })
    .await;
}

#[tokio::test]
async fn each_line_tells_of_its_own_exchange_however_alike_they_are() {
    on(async |host| {
        let mut callers = vec![];
        for connection in [7, 8] {
            host.record(Some(CallerRecord {
                socket_cookie: connection,
                ..ourselves()
            }));
            let mut caller = host.connect().await;
            // Accepted, with the record of this moment.
            caller.ask(READ).await;
            callers.push(caller);
        }
        for target in [
            READ,
            TOKEN_TARGET,
            TOKEN_TARGET,
            TOKEN_TARGET,
            READ,
            "/metadata/nothing",
        ] {
            for caller in &mut callers {
                caller.ask(target).await;
            }
        }
        let records = host.audit();
        assert_eq!(records.len(), 14);
        for (at, record) in records.iter().enumerate() {
            let text = record.to_string();
            assert_eq!(record["caller"]["connection"], 7 + at % 2, "{text}");
            let token = (4..10).contains(&at);
            assert_eq!(record["credential"].is_object(), token, "{text}");
            assert_eq!(record["resource"].is_string(), token, "{text}");
            // The first one was fetched; one line that is like the last must not say so again.
            assert_eq!(
                token && record["credential"]["cached"] == true,
                token && at > 4,
                "{text}"
            );
            let nothing = at >= 12;
            assert_eq!(record["outcome"] == "allowed", !nothing, "{text}");
            assert_eq!(record["rule"].is_object(), !nothing, "{text}");
            assert!(record["latency_us"].is_u64(), "{text}");
            let time: jiff::Timestamp = record["time"].as_str().unwrap().parse().unwrap();
            assert!(at == 0 || time > records[at - 1]["time"].as_str().unwrap().parse().unwrap());
        }
    })
    .await;
}
