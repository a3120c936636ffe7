//! Files, addresses that nobody is led to, and answers, true and false.

use std::net::{IpAddr, SocketAddr};

use domain::base::iana::Rcode;
use domain::base::{MessageBuilder, Name, Ttl};
use domain::rdata::{A, Aaaa, Cname};
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn resolv_conf_is_read_as_the_c_library_reads_it() {
    let text = "# by hand\nsearch example.org\nnameserver 192.0.2.1 # the first\n nameserver 2001:db8::1\n\
                nameserver fe80::1%eth0\nnameserver 192.0.2.4\noptions edns0 use-vc\n";
    let read = Resolvers::read(text, |name| (name == "eth0").then_some(7));
    let servers: Vec<String> = read.servers.iter().map(SocketAddr::to_string).collect();
    assert_eq!(
        servers,
        ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]
    );
    assert!(read.over_tcp && read.unreadable.is_empty());
}

#[test]
fn a_resolver_that_is_none_is_told_and_left_out() {
    let read = Resolvers::read(
        "nameserver\nnameserver dns.example\nnameserver fe80::1%gone\nnameserver ::1",
        |_| None,
    );
    assert_eq!(read.unreadable, ["", "dns.example", "fe80::1%gone"]);
    assert_eq!(read.servers, ["[::1]:53".parse().unwrap()]);
    assert!(!read.over_tcp);
}

#[test]
fn hosts_has_names_and_aliases() {
    let hosts = "127.0.0.1 localhost\n192.0.2.7\tSTS.amazonaws.com. sts # vpc endpoint\n# 192.0.2.9 sts.amazonaws.com\n\
                 2001:db8::7 sts.amazonaws.com\n192.0.2.7 sts.amazonaws.com\nnot-an-address sts.amazonaws.com\n";
    assert_eq!(
        in_hosts(hosts, "sts.amazonaws.com"),
        [ip("192.0.2.7"), ip("2001:db8::7")]
    );
    assert_eq!(in_hosts(hosts, "sts"), [ip("192.0.2.7")]);
    assert!(in_hosts(hosts, "amazonaws.com").is_empty());
}

#[test]
fn no_spelling_of_a_metadata_address_is_dialled() {
    let guarded = [
        "192.0.2.80:80".parse().unwrap(),
        "[fd00:ec2::254]:80".parse().unwrap(),
    ];
    for bad in [
        "169.254.169.254",
        "169.254.0.1",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "2002:a9fe:a9fe::1",
        "168.63.129.16",
        "64:ff9b::a83f:8110",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "192.0.2.80",
        "::ffff:192.0.2.80",
        "64:ff9b::192.0.2.80",
        "fd00:ec2::254",
    ] {
        assert!(is_forbidden(ip(bad), &guarded), "{bad}");
    }
    for good in [
        "127.0.0.1",
        "::1",
        "192.0.2.81",
        "10.0.0.1",
        "fd00:ec2::255",
        "64:ff9b::192.0.2.81",
        "2001:db8::a9fe:a9fe",
    ] {
        assert!(!is_forbidden(ip(good), &guarded), "{good}");
    }
}

fn name(text: &str) -> Name<Vec<u8>> {
    text.parse().unwrap()
}

fn question(family: Family) -> Question {
    Question::new("sts.amazonaws.com", family, 0x1234).unwrap()
}

/// The answer to `question` with these records, which may be changed before it is finished.
fn answer(question: &Question, rcode: Rcode, records: &[(&str, u32, &str)]) -> Vec<u8> {
    let asked = domain::base::Message::from_octets(question.bytes()).unwrap();
    let mut message = MessageBuilder::new_vec()
        .start_answer(&asked, rcode)
        .unwrap();
    for (owner, ttl, data) in records {
        let (owner, ttl) = (name(owner), Ttl::from_secs(*ttl));
        match data.parse() {
            Ok(IpAddr::V4(v4)) => message.push((owner, ttl, A::new(v4))).unwrap(),
            Ok(IpAddr::V6(v6)) => message.push((owner, ttl, Aaaa::new(v6))).unwrap(),
            Err(_) => message.push((owner, ttl, Cname::new(name(data)))).unwrap(),
        }
    }
    message.finish()
}

fn found(heard: Heard) -> (Vec<String>, u32) {
    match heard {
        Heard::Answer(found) => (
            found.addresses.iter().map(IpAddr::to_string).collect(),
            found.ttl,
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_found_behind_aliases_in_any_order() {
    let question = question(Family::V4);
    let bytes = answer(
        &question,
        Rcode::NOERROR,
        &[
            ("b.example", 60, "192.0.2.1"),
            ("STS.amazonaws.com", 5, "a.example"),
            ("a.example", 300, "b.example"),
            ("b.example", 60, "192.0.2.2"),
            ("other.example", 90, "192.0.2.66"),
            ("b.example", 60, "2001:db8::1"),
        ],
    );
    let expected = vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()];
    assert_eq!(found(hear(&question, &bytes)), (expected, 5));
    let question = self::question(Family::V6);
    let bytes = answer(
        &question,
        Rcode::NOERROR,
        &[("sts.amazonaws.com", 9, "2001:db8::1")],
    );
    assert_eq!(
        found(hear(&question, &bytes)),
        (vec!["2001:db8::1".to_owned()], 9)
    );
}

#[test]
fn no_such_name_and_no_such_address_are_answers() {
    let question = question(Family::V4);
    for (rcode, records) in [
        (Rcode::NXDOMAIN, &[][..]),
        (Rcode::NOERROR, &[]),
        (
            Rcode::NOERROR,
            &[("sts.amazonaws.com", 60, "elsewhere.example")],
        ),
    ] {
        assert_eq!(
            found(hear(&question, &answer(&question, rcode, records))),
            (vec![], 0)
        );
    }
}

#[test]
fn what_answers_another_question_is_ignored() {
    let asked = question(Family::V4);
    let good = answer(
        &asked,
        Rcode::NOERROR,
        &[("sts.amazonaws.com", 60, "192.0.2.1")],
    );
    assert!(matches!(hear(&asked, &good), Heard::Answer(_)));
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        hear(&asked, &bytes)
    };
    assert_eq!(with(0, 0x99), Heard::Something, "another id");
    assert_eq!(with(2, good[2] & 0x7f), Heard::Something, "a question");
    assert_eq!(with(14, b'x'), Heard::Something, "another name");
    assert_eq!(
        hear(&question(Family::V6), &good),
        Heard::Something,
        "another type"
    );
    assert_eq!(with(2, good[2] | 2), Heard::Truncated);
    assert_eq!(hear(&asked, &good[..5]), Heard::Something);
    assert!(matches!(
        hear(&asked, &good[..good.len() - 3]),
        Heard::Fails(_)
    ));
}

#[test]
fn a_resolver_that_cannot_says_so_and_a_circle_is_no_answer() {
    let asked = question(Family::V4);
    for (rcode, word) in [(Rcode::SERVFAIL, "SERVFAIL"), (Rcode::REFUSED, "REFUSED")] {
        assert_eq!(
            hear(&asked, &answer(&asked, rcode, &[])),
            Heard::Fails(word)
        );
    }
    let circle = [
        ("sts.amazonaws.com", 60, "a.example"),
        ("a.example", 60, "sts.amazonaws.com"),
    ];
    assert!(matches!(
        hear(&asked, &answer(&asked, Rcode::NOERROR, &circle)),
        Heard::Fails(_)
    ));
}

#[test]
fn more_addresses_than_anybody_dials_are_left_out() {
    let asked = question(Family::V4);
    let many: Vec<_> = (0..40)
        .map(|_| ("sts.amazonaws.com", 60, "192.0.2.1"))
        .collect();
    assert_eq!(
        found(hear(&asked, &answer(&asked, Rcode::NOERROR, &many)))
            .0
            .len(),
        16
    );
}

#[test]
fn a_name_that_dns_has_not_is_no_question() {
    for bad in ["", "a..b", &"x".repeat(64)] {
        assert!(Question::new(bad, Family::V4, 1).is_none(), "{bad:?}");
    }
}

proptest! {
    /// Whatever a stranger sends: no panic, and nothing that wasn't asked for.
    #[test]
    fn garbage_is_something(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        let asked = question(Family::V4);
        let mut bytes = asked.bytes().to_vec();
        bytes[2] |= 0x80;
        bytes[7] = 3;
        bytes.extend(tail);
        if let Heard::Answer(found) = hear(&asked, &bytes) {
            prop_assert!(found.addresses.iter().all(IpAddr::is_ipv4));
        }
    }
}
