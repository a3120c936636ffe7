//! The gate over an in-memory stream and tokio's paused clock: what comes out, and when it closes.

use super::*;
use imds_guard_core::http::{BODY_LIMIT, HEAD_LIMIT};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const GET: &[u8] =
    b"GET /metadata/versions HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n";
const POST: &[u8] = b"POST /a HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 5\r\n\r\nhello";

fn gate() -> (Gate<DuplexStream>, Rc<Halted>, DuplexStream) {
    let (ours, theirs) = duplex(1024 * 1024);
    let (gate, halted) = Gate::new(ours);
    (gate, halted, theirs)
}

/// Everything that comes through until the gate says that the stream has ended.
async fn through(gate: &mut Gate<DuplexStream>) -> Vec<u8> {
    let mut all = vec![];
    gate.read_to_end(&mut all).await.unwrap();
    all
}

fn violation(halted: &Halted) -> Violation {
    match halted.get() {
        Some(Halt::Violation(violation)) => violation,
        other => panic!("no violation but {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn clean_messages_come_through_one_at_a_time_and_unchanged() {
    let (mut gate, halted, mut caller) = gate();
    caller.write_all(&[GET, POST, GET].concat()).await.unwrap();
    drop(caller);
    let mut buffer = vec![0; 8192];
    let mut messages = vec![];
    loop {
        let n = gate.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        messages.push(buffer[..n].to_vec());
    }
    assert_eq!(messages, [GET, POST, GET]);
    assert_eq!(halted.get(), None, "an end between messages is no offence");
}

#[tokio::test(start_paused = true)]
async fn a_head_comes_through_only_when_it_is_whole() {
    let (mut gate, _halted, mut caller) = gate();
    let mut buffer = vec![0; 8192];
    for byte in &GET[..GET.len() - 1] {
        caller.write_all(&[*byte]).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(1), gate.read(&mut buffer)).await;
        assert!(early.is_err(), "part of a head came through");
    }
    caller.write_all(b"\n").await.unwrap();
    let n = gate.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..n], GET);
}

#[tokio::test(start_paused = true)]
async fn a_small_reader_gets_the_same_bytes() {
    let (mut gate, _halted, mut caller) = gate();
    caller.write_all(&[POST, GET].concat()).await.unwrap();
    drop(caller);
    let mut all = vec![];
    let mut one = [0; 1];
    while gate.read(&mut one).await.unwrap() == 1 {
        all.push(one[0]);
    }
    assert_eq!(all, [POST, GET].concat());
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
        let (mut gate, halted, mut caller) = gate();
        caller.write_all(&[GET, bad, GET].concat()).await.unwrap();
        assert_eq!(through(&mut gate).await, GET, "{want:?}");
        assert_eq!(violation(&halted), want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_ended_after_its_time_however_it_dribbles() {
    let (mut gate, halted, mut caller) = gate();
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
    let (passed, ()) = tokio::join!(
        async {
            let passed = through(&mut gate).await;
            (passed, start.elapsed())
        },
        dribble
    );
    assert_eq!(passed.0, GET);
    assert_eq!(violation(&halted), Violation::SlowHead);
    let late = passed.1 - IDLE / 2;
    assert!(
        late >= HEAD && late < HEAD + Duration::from_secs(1),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_that_says_nothing_has_the_time_of_a_head() {
    let (mut gate, halted, _caller) = gate();
    let start = Instant::now();
    assert_eq!(through(&mut gate).await, b"");
    assert_eq!(violation(&halted), Violation::SlowHead);
    assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_may_be_idle_for_its_time_and_no_longer() {
    let (mut gate, halted, mut caller) = gate();
    let mut buffer = vec![0; 8192];
    for _ in 0..3 {
        caller.write_all(GET).await.unwrap();
        assert_eq!(gate.read(&mut buffer).await.unwrap(), GET.len());
        let early =
            tokio::time::timeout(IDLE - Duration::from_secs(1), gate.read(&mut buffer)).await;
        assert!(early.is_err(), "closed while it may be idle");
    }
    let start = Instant::now();
    assert_eq!(through(&mut gate).await, b"");
    assert_eq!(halted.get(), Some(Halt::Idle));
    assert!(
        start.elapsed() <= Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_ended_after_its_time() {
    let (mut gate, halted, mut caller) = gate();
    caller.write_all(&POST[..POST.len() - 1]).await.unwrap();
    let start = Instant::now();
    assert_eq!(through(&mut gate).await, &POST[..POST.len() - 1]);
    assert_eq!(violation(&halted), Violation::SlowBody);
    assert_eq!(start.elapsed().as_secs(), BODY.as_secs());
}

#[tokio::test(start_paused = true)]
async fn limits_of_head_and_body_are_hit() {
    let long = format!("GET /a HTTP/1.1\r\n{}", "x: y\r\n".repeat(40));
    let long = format!("{long}{}", format!("z: {}\r\n", "q".repeat(8000)).repeat(3));
    assert!(long.len() > HEAD_LIMIT);
    let (mut gate_, halted, mut caller) = gate();
    caller.write_all(long.as_bytes()).await.unwrap();
    assert_eq!(through(&mut gate_).await, b"");
    assert_eq!(violation(&halted), Violation::HeadTooLong);

    let body = format!(
        "POST /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        BODY_LIMIT + 1
    );
    let (mut gate_, halted, mut caller) = gate();
    caller.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(through(&mut gate_).await, b"");
    assert_eq!(violation(&halted), Violation::BodyTooLong);
}

#[tokio::test(start_paused = true)]
async fn an_end_inside_a_message_is_truncation() {
    for part in [&GET[..10], &POST[..POST.len() - 2]] {
        let (mut gate, halted, mut caller) = gate();
        caller.write_all(part).await.unwrap();
        drop(caller);
        through(&mut gate).await;
        assert_eq!(violation(&halted), Violation::Truncated);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_nothing_is_ended() {
    let (ours, _theirs) = duplex(16);
    let (mut gate, _) = Gate::new(ours);
    let start = Instant::now();
    let error = gate.write_all(&[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed().as_secs(), WRITE_STALL.as_secs());
}
