//! Bytes of a connection into the scanner, in a chunking that the input itself chooses.
//!
//! Holds: no panic; the verdict doesn't depend on the chunking; a head that passes splits, is within its limits, has no
//! bare CR or LF, no NUL, nothing that frames a second message; and whatever the dialect makes of it is answered.
#![no_main]

use imds_guard_core::http::{HEAD_LIMIT, HEADERS_LIMIT, Scanner, TARGET_LIMIT, Verdict, split};
use imds_guard_core::imds::{self, Arrival, Service};
use imds_guard_core::respond::{Outcome, respond};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    let whole = Scanner::new().feed(bytes);
    let mut scanner = Scanner::new();
    for chunk in bytes.chunks(usize::from(*step % 31) + 1) {
        scanner.feed(chunk);
    }
    assert_eq!(scanner.feed(&[]), whole, "the chunking changed the verdict");
    let response = match whole {
        Verdict::NeedMore => {
            assert!(bytes.len() <= HEAD_LIMIT);
            return;
        }
        Verdict::Violation(violation) => {
            respond(Service::AzureImds, &Outcome::Violation(violation))
        }
        Verdict::Head(head) => {
            assert!(head.len <= HEAD_LIMIT && head.len <= bytes.len());
            let head = &bytes[..head.len];
            check(head);
            let Some(split) = split(head) else {
                panic!("a head that passed doesn't split")
            };
            let arrival = Arrival {
                service: Service::AzureImds,
                address: [169, 254, 169, 254].into(),
                port: 80,
            };
            match imds::parse(&split.as_head(), &arrival) {
                Ok(_) => return,
                Err(malformed) => respond(Service::AzureImds, &Outcome::Malformed(malformed)),
            }
        }
    };
    assert!((400..600).contains(&response.status));
});

fn check(head: &[u8]) {
    let text = std::str::from_utf8(head).expect("heads are ASCII");
    assert!(text.is_ascii() && !text.contains('\0'));
    let plain = text.replace("\r\n", "");
    assert!(!plain.contains(['\r', '\n']));
    let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    assert!(lines.len() <= HEADERS_LIMIT + 1);
    let words: Vec<&str> = lines[0].split(' ').collect();
    assert_eq!(words.len(), 3);
    assert!(words[1].starts_with('/') && words[1].len() <= TARGET_LIMIT);
    let named = |name: &str| {
        lines[1..]
            .iter()
            .filter(|line| {
                line.split(':')
                    .next()
                    .is_some_and(|n| n.eq_ignore_ascii_case(name))
            })
            .count()
    };
    assert_eq!(
        named("transfer-encoding") + named("upgrade") + named("expect"),
        0
    );
    assert!(named("content-length") <= 1);
}
