//! Each rule with the head that breaks it and its positive twin; each limit at and one over; any chunking, one verdict.

use super::*;

fn scan(bytes: &[u8]) -> Verdict {
    Scanner::new().feed(bytes)
}

fn head(bytes: &[u8]) -> Head {
    match scan(bytes) {
        Verdict::Head(head) => head,
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn refused(bytes: &[u8], violation: Violation) {
    assert_eq!(
        scan(bytes),
        Verdict::Violation(violation),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
}

const GET: &str = "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n";

#[test]
fn a_good_head() {
    assert_eq!(
        head(GET.as_bytes()),
        Head {
            len: GET.len(),
            content_length: 0,
            keep_alive: true,
            minor: 1
        }
    );
    let pipelined = format!("{GET}GET / HT\nTP garbage");
    assert_eq!(
        head(pipelined.as_bytes()).len,
        GET.len(),
        "what follows isn't looked at"
    );
}

/// What breaks each rule, and the twin that passes.
const RULES: &[(Violation, &[u8], &[u8])] = {
    use Violation::*;
    &[
        (BadMethod, b" / HTTP/1.1\r\n\r\n", b"G / HTTP/1.1\r\n\r\n"),
        (
            BadMethod,
            b"G(T / HTTP/1.1\r\n\r\n",
            b"G!T / HTTP/1.1\r\n\r\n",
        ),
        (
            BadMethod,
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            Http2Preface,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PRI / HTTP/1.1\r\n\r\n",
        ),
        (
            NotOriginForm,
            b"GET http://169.254.169.254/ HTTP/1.1\r\n\r\n",
            b"GET /http://169.254.169.254/ HTTP/1.1\r\n\r\n",
        ),
        (
            NotOriginForm,
            b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n",
            b"CONNECT /169.254.169.254:80 HTTP/1.1\r\n\r\n",
        ),
        (
            NotOriginForm,
            b"OPTIONS * HTTP/1.1\r\n\r\n",
            b"OPTIONS / HTTP/1.1\r\n\r\n",
        ),
        (
            NotOriginForm,
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            NotOriginForm,
            b"GET \t/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /# HTTP/1.1\r\n\r\n",
            b"GET /%23 HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /a\\b HTTP/1.1\r\n\r\n",
            b"GET /a%5Cb HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /\x01 HTTP/1.1\r\n\r\n",
            b"GET /~ HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /\x7f HTTP/1.1\r\n\r\n",
            b"GET /~ HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
            b"GET /%C3%A4 HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /\ta HTTP/1.1\r\n\r\n",
            b"GET /%09a HTTP/1.1\r\n\r\n",
        ),
        (
            BadTarget,
            b"GET /{x} HTTP/1.1\r\n\r\n",
            b"GET /?a=:/?@!$&'()*+,;= HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET / HTTP/1.2\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET / http/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET / HTTP/1.10\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET / HTTP/1.1 \r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (
            UnsupportedVersion,
            b"GET /  HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
        (BareLf, b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\n\r\n"),
        (
            BareLf,
            b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n",
        ),
        (
            BareLf,
            b"GET / HTTP/1.1\r\nA\n: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
        ),
        (
            BareCr,
            b"GET / HTTP/1.1\rA: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
        ),
        (
            BareCr,
            b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
        ),
        (
            BareCr,
            b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
        ),
        (BareCr, b"GET / HTTP/1.1\r\n\rX", b"GET / HTTP/1.1\r\n\r\nX"),
        (Nul, b"GET /\0 HTTP/1.1\r\n\r\n", b"GET /0 HTTP/1.1\r\n\r\n"),
        (
            Nul,
            b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b0\r\n\r\n",
        ),
        (
            ObsoleteFold,
            b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\nc:\r\n\r\n",
        ),
        (
            ObsoleteFold,
            b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: \tb\r\n\r\n",
        ),
        (
            SpaceBeforeColon,
            b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA:  b \r\n\r\n",
        ),
        (
            SpaceBeforeColon,
            b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b: c\r\n\r\n",
        ),
        (
            BadHeaderName,
            b"GET / HTTP/1.1\r\n: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA:\r\n\r\n",
        ),
        (
            BadHeaderName,
            b"GET / HTTP/1.1\r\nA\r\n\r\n",
            b"GET / HTTP/1.1\r\nA:\r\n\r\n",
        ),
        (
            BadHeaderName,
            b"GET / HTTP/1.1\r\nA(: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA_: b\r\n\r\n",
        ),
        (
            BadHeaderValue,
            b"GET / HTTP/1.1\r\nA: \x01\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: ~ \t!\r\n\r\n",
        ),
        (
            BadHeaderValue,
            b"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: ~\r\n\r\n",
        ),
        (
            BadHeaderValue,
            b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: y\r\n\r\n",
        ),
        (
            TransferEncoding,
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nTE: trailers\r\n\r\n",
        ),
        (
            TransferEncoding,
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTRANSFER-encoding: identity\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
        ),
        (
            BadContentLength,
            b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length:  3 \r\n\r\n",
        ),
        (
            BadContentLength,
            b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length:0\r\n\r\n",
        ),
        (
            BadContentLength,
            b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 3\t\r\n\r\n",
        ),
        (
            BadContentLength,
            b"POST / HTTP/1.1\r\nContent-Length: 3 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 33\r\n\r\n",
        ),
        (
            BadContentLength,
            b"POST / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 03\r\n\r\n",
        ),
        (
            DuplicateContentLength,
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 3\r\ncontent-lengths: 3\r\n\r\n",
        ),
        (
            BodyNotAllowed,
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            BodyNotAllowed,
            b"DELETE / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
        ),
        (
            Expect,
            b"POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            b"POST / HTTP/1.1\r\nExpected: 100-continue\r\n\r\n",
        ),
        (
            Upgrade,
            b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n",
        ),
    ]
};

#[test]
fn every_rule_with_its_twin() {
    for (violation, breaks, passes) in RULES {
        refused(breaks, *violation);
        head(passes);
    }
}

#[test]
fn each_limit_at_and_one_over() {
    let method = |n: usize| format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(n));
    head(method(METHOD_LIMIT).as_bytes());
    refused(method(METHOD_LIMIT + 1).as_bytes(), Violation::BadMethod);

    let target = |n: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(n - 1));
    head(target(TARGET_LIMIT).as_bytes());
    refused(
        target(TARGET_LIMIT + 1).as_bytes(),
        Violation::TargetTooLong,
    );

    let value = |n: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "v".repeat(n - 3));
    head(value(HEADER_LIMIT).as_bytes());
    refused(value(HEADER_LIMIT + 1).as_bytes(), Violation::HeaderTooLong);

    let name = |n: usize| format!("GET / HTTP/1.1\r\n{}:\r\n\r\n", "n".repeat(n - 1));
    head(name(HEADER_LIMIT).as_bytes());
    refused(name(HEADER_LIMIT + 1).as_bytes(), Violation::HeaderTooLong);

    let headers = |n: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(n));
    head(headers(HEADERS_LIMIT).as_bytes());
    refused(
        headers(HEADERS_LIMIT + 1).as_bytes(),
        Violation::TooManyHeaders,
    );

    let whole = |n: usize| {
        let start = format!(
            "GET / HTTP/1.1\r\nA: {}\r\nB: ",
            "a".repeat(HEADER_LIMIT - 3)
        );
        let rest = n - start.len() - 4;
        format!("{start}{}\r\n\r\n", "b".repeat(rest))
    };
    assert_eq!(head(whole(HEAD_LIMIT).as_bytes()).len, HEAD_LIMIT);
    refused(whole(HEAD_LIMIT + 1).as_bytes(), Violation::HeadTooLong);

    let body = |n: u64| format!("POST / HTTP/1.1\r\nContent-Length: {n}\r\n\r\n");
    assert_eq!(head(body(BODY_LIMIT).as_bytes()).content_length, BODY_LIMIT);
    for over in [BODY_LIMIT + 1, u64::MAX] {
        refused(body(over).as_bytes(), Violation::BodyTooLong);
    }
    let wraps = "POST / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n";
    refused(wraps.as_bytes(), Violation::BodyTooLong);
}

#[test]
fn what_ends_a_connection() {
    let keeps = |version: &str, connection: &str| {
        head(format!("GET / HTTP/{version}\r\n{connection}\r\n").as_bytes()).keep_alive
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: close\r\n"));
    assert!(!keeps("1.1", "connection: Keep-Alive , CLOSE\r\n"));
    assert!(keeps("1.1", "Connection: closed\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: keep-alive\r\n"));
    assert!(!keeps(
        "1.0",
        "Connection: keep-alive\r\nConnection: close\r\n"
    ));
}

#[test]
fn names_are_stable_and_distinct() {
    let mut names: Vec<_> = Violation::ALL.iter().map(|v| v.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Violation::ALL.len());
    for violation in Violation::ALL {
        assert!((400..600).contains(&violation.status()), "{violation:?}");
    }
}

#[test]
fn split_gives_back_what_was_sent() {
    let split = split(GET.as_bytes()).unwrap();
    let head = split.as_head();
    assert_eq!(head.method, "GET");
    assert_eq!(head.target, "/metadata/instance?api-version=2021-02-01");
    assert_eq!(
        head.values("HOST").collect::<Vec<_>>(),
        [b"169.254.169.254"]
    );
    assert_eq!(head.values("absent").count(), 0);
}

/// Mostly heads, with something wrong here and there.
fn nearly_a_head() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let piece = prop_oneof![
        4 => Just(b"GET / HTTP/1.1\r\n".to_vec()),
        2 => Just(b"Host: 169.254.169.254\r\n".to_vec()),
        2 => Just(b"Content-Length: 12\r\n".to_vec()),
        2 => Just(b"Connection: close\r\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(vec![b'a'; HEADER_LIMIT - 2]),
        1 => Just(vec![b'a'; TARGET_LIMIT - 1]),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
        2 => "[A-Za-z: /]{0,12}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest::proptest! {
    #[test]
    fn any_chunking_gives_the_same_verdict(bytes in nearly_a_head(), cuts in proptest::collection::vec(0usize..40, 0..40)) {
        let whole = scan(&bytes);
        let mut scanner = Scanner::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            scanner.feed(now);
            rest = later;
        }
        proptest::prop_assert_eq!(scanner.feed(rest), whole);
        let mut single = Scanner::new();
        for byte in &bytes {
            single.feed(std::slice::from_ref(byte));
        }
        proptest::prop_assert_eq!(single.feed(&[]), whole);
    }

    #[test]
    fn what_passes_splits(bytes in nearly_a_head()) {
        if let Verdict::Head(head) = scan(&bytes) {
            proptest::prop_assert!(head.len <= HEAD_LIMIT);
            let split = split(&bytes[..head.len]);
            proptest::prop_assert!(split.is_some());
        }
    }
}
