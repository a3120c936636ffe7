//! The gate over an in-memory stream and tokio's paused clock: what comes out, and when it closes.

use super::*;
use imds_guard_core::http::{BODY_LIMIT, HEAD_LIMIT};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

const GET: &[u8] =
    b"GET /metadata/versions HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n";
const POST: &[u8] = b"POST /a HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 5\r\n\r\nhello";

fn gate() -> (Gate<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(1024 * 1024);
    (Gate::new(ours), theirs)
}

/// The next message, whole.
async fn message(gate: &mut Gate<DuplexStream>) -> Result<Vec<u8>, Ended> {
    gate.head().await?;
    let head = gate.head_bytes().to_vec();
    Ok([&head, gate.body().await?].concat())
}

/// All messages until there are no more, and why.
async fn through(gate: &mut Gate<DuplexStream>) -> (Vec<Vec<u8>>, Ended) {
    let mut all = vec![];
    loop {
        match message(gate).await {
            Ok(message) => all.push(message),
            Err(ended) => return (all, ended),
        }
    }
}

const NOTHING: [&[u8]; 0] = [];

#[tokio::test(start_paused = true)]
async fn clean_messages_come_through_one_at_a_time_and_unchanged() {
    let (mut gate, mut caller) = gate();
    let messages = [GET, POST, GET, GET, POST, POST];
    caller.write_all(&messages.concat()).await.unwrap();
    drop(caller);
    let (passed, ended) = through(&mut gate).await;
    assert_eq!(passed, messages);
    assert_eq!(
        ended,
        Ended::Closed,
        "an end between messages is no offence"
    );
}

#[tokio::test(start_paused = true)]
async fn a_head_comes_through_only_when_it_is_whole() {
    let (mut gate, mut caller) = gate();
    // The second time its bytes are known.
    for _ in 0..2 {
        for byte in &GET[..GET.len() - 1] {
            caller.write_all(&[*byte]).await.unwrap();
            let early = tokio::time::timeout(Duration::from_millis(1), gate.head()).await;
            assert!(early.is_err(), "part of a head came through");
        }
        caller.write_all(b"\n").await.unwrap();
        assert_eq!(message(&mut gate).await.unwrap(), GET);
    }
}

/// What is not scanned again is the very same head, not one that begins like it, or is the start of it.
#[tokio::test(start_paused = true)]
async fn a_head_like_the_last_is_scanned_as_any_other() {
    let smuggling = [&GET[..GET.len() - 2], b"Transfer-Encoding: chunked\r\n\r\n"].concat();
    let (mut gate_, mut caller) = gate();
    caller.write_all(&[GET, &smuggling].concat()).await.unwrap();
    let (passed, ended) = through(&mut gate_).await;
    assert_eq!(passed, [GET]);
    assert_eq!(ended, Ended::Violation(Violation::TransferEncoding));

    let (mut gate_, mut caller) = gate();
    let shorter = b"GET /metadata/versions HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    caller
        .write_all(&[GET, shorter, GET].concat())
        .await
        .unwrap();
    drop(caller);
    assert_eq!(through(&mut gate_).await.0, [GET, shorter, GET]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_which_the_rest_is_to_come_is_not_whole() {
    let (mut gate, mut caller) = gate();
    caller.write_all(&POST[..POST.len() - 1]).await.unwrap();
    gate.head().await.unwrap();
    assert!(!gate.is_whole());
    caller.write_all(&POST[POST.len() - 1..]).await.unwrap();
    assert_eq!(gate.body().await.unwrap(), b"hello");
    assert!(gate.is_whole());
}

#[tokio::test(start_paused = true)]
async fn nothing_after_a_violation_comes_through() {
    for (bad, want) in [
        (
            &b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
            Violation::TransferEncoding,
        ),
        (b"GET /a HTTP/1.1\nHost: a\r\n\r\n", Violation::BareLf),
        (
            b"POST /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            Violation::DuplicateContentLength,
        ),
        (
            b"GET http://other/ HTTP/1.1\r\n\r\n",
            Violation::NotOriginForm,
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Violation::Http2Preface),
        (
            b"GET /a HTTP/1.1\r\n folded: x\r\n\r\n",
            Violation::ObsoleteFold,
        ),
    ] {
        let (mut gate, mut caller) = gate();
        caller.write_all(&[GET, bad, GET].concat()).await.unwrap();
        let (passed, ended) = through(&mut gate).await;
        assert_eq!(passed, [GET], "{want:?}");
        assert_eq!(ended, Ended::Violation(want));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_ended_after_its_time_however_it_dribbles() {
    let (mut gate, mut caller) = gate();
    caller.write_all(GET).await.unwrap();
    let dribble = async {
        tokio::time::sleep(IDLE / 2).await;
        for byte in b"GET /aaaaaaaaaaaaaaaaaa" {
            if caller.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
    };
    let start = Instant::now();
    let (((passed, ended), took), ()) = tokio::join!(
        async {
            let passed = through(&mut gate).await;
            (passed, start.elapsed())
        },
        dribble
    );
    assert_eq!(passed, [GET]);
    assert_eq!(ended, Ended::Violation(Violation::SlowHead));
    let late = took - IDLE / 2;
    assert!(
        late >= HEAD && late < HEAD + Duration::from_secs(1),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_says_nothing_has_the_time_of_a_head() {
    let (mut gate, _caller) = gate();
    let start = Instant::now();
    let (passed, ended) = through(&mut gate).await;
    assert_eq!(passed, NOTHING);
    assert_eq!(ended, Ended::Violation(Violation::SlowHead));
    assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_may_be_idle_for_its_time_and_no_longer() {
    let (mut gate, mut caller) = gate();
    for _ in 0..3 {
        caller.write_all(GET).await.unwrap();
        assert_eq!(message(&mut gate).await.unwrap(), GET);
        let early = tokio::time::timeout(IDLE - Duration::from_secs(1), gate.head()).await;
        assert!(early.is_err(), "closed while it may be idle");
    }
    let start = Instant::now();
    let (passed, ended) = through(&mut gate).await;
    assert_eq!(passed, NOTHING);
    assert_eq!(ended, Ended::Idle);
    assert!(
        start.elapsed() <= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_ended_after_its_time() {
    let (mut gate, mut caller) = gate();
    caller.write_all(&POST[..POST.len() - 1]).await.unwrap();
    let start = Instant::now();
    let (passed, ended) = through(&mut gate).await;
    assert_eq!(passed, NOTHING);
    assert_eq!(ended, Ended::Violation(Violation::SlowBody));
    assert_eq!(start.elapsed().as_secs(), BODY.as_secs());
}

#[tokio::test(start_paused = true)]
async fn limits_of_head_and_body_are_hit() {
    let long = format!("GET /a HTTP/1.1\r\n{}", "x: y\r\n".repeat(40));
    let long = format!("{long}{}", format!("z: {}\r\n", "q".repeat(8000)).repeat(3));
    assert!(long.len() > HEAD_LIMIT);
    let body = format!(
        "POST /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        BODY_LIMIT + 1
    );
    for (sent, want) in [
        (long, Violation::HeadTooLong),
        (body, Violation::BodyTooLong),
    ] {
        let (mut gate, mut caller) = gate();
        caller.write_all(sent.as_bytes()).await.unwrap();
        let (passed, ended) = through(&mut gate).await;
        assert_eq!(passed, NOTHING);
        assert_eq!(ended, Ended::Violation(want));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_inside_a_message_is_truncation() {
    for part in [&GET[..10], &POST[..POST.len() - 2]] {
        let (mut gate, mut caller) = gate();
        caller.write_all(part).await.unwrap();
        drop(caller);
        let ended = through(&mut gate).await.1;
        assert_eq!(ended, Ended::Violation(Violation::Truncated));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_written_whole_to_a_caller_that_takes_it_slowly() {
    let (ours, mut theirs) = duplex(16);
    let mut gate = Gate::new(ours);
    let mut taken = vec![];
    let take = async {
        while taken.len() < 100 {
            tokio::time::sleep(WRITE_STALL / 2).await;
            theirs.read_buf(&mut taken).await.unwrap();
        }
    };
    let (wrote, ()) = tokio::join!(gate.write(&[b'h'; 40], &[b'b'; 60]), take);
    wrote.unwrap();
    assert_eq!(taken, [[b'h'; 40].as_slice(), &[b'b'; 60]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_is_ended() {
    let (ours, _theirs) = duplex(16);
    let mut gate = Gate::new(ours);
    let start = Instant::now();
    let error = gate.write(&[0; 64], &[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed().as_secs(), WRITE_STALL.as_secs());
}

#[tokio::test(start_paused = true)]
async fn it_prints_nothing_of_what_it_holds() {
    let (mut gate, mut caller) = gate();
    caller.write_all(GET).await.unwrap();
    gate.head().await.unwrap();
    assert_eq!(format!("{gate:?}"), "Gate { .. }");
}
