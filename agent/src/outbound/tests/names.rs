//! Names: the host's own entries, resolvers that answer, fail, lie and are silent, and addresses that nobody is led to.

use super::*;
use crate::outbound::resolver::Resolver;
use imds_guard_core::names::Resolvers;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A resolver on loopback, over UDP and TCP at one port; what it says is up to `answer`, which sees the question and whether it
/// came over TCP.
struct FakeResolver {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl FakeResolver {
    fn new(answer: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = pair();
        let at = udp.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let (answer, counter) = (Arc::new(answer), Arc::clone(&asked));
        let over_udp = Arc::clone(&answer);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                counter.fetch_add(1, Ordering::SeqCst);
                for datagram in over_udp(&question[..length], false) {
                    udp.send_to(&datagram, from).unwrap();
                }
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).unwrap();
                for message in answer(&question, true) {
                    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length[..], &message].concat()).unwrap();
                }
            }
        });
        Self { at, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn pair() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn is_v6(question: &[u8]) -> bool {
    let end = 12 + question[12..].iter().position(|b| *b == 0).unwrap();
    question[end + 2] == 28
}

/// An answer with these flags and these IPv4 addresses, that live for a minute.
fn answer(question: &[u8], flags: [u8; 2], addresses: &[[u8; 4]]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let count = u8::try_from(addresses.len()).unwrap();
    let mut message = question[..2].to_vec();
    message.extend([flags[0], flags[1], 0, 1, 0, count, 0, 0, 0, 0]);
    message.extend(&question[12..end]);
    for address in addresses {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address);
    }
    message
}

const FINE: [u8; 2] = [0x81, 0x80];
const TRUNCATED: [u8; 2] = [0x83, 0x80];
const SERVFAIL: [u8; 2] = [0x81, 0x82];
const NXDOMAIN: [u8; 2] = [0x81, 0x83];

/// Says where the name is: IPv4 alone.
fn honest(question: &[u8], address: [u8; 4]) -> Vec<Vec<u8>> {
    if is_v6(question) {
        return vec![answer(question, FINE, &[])];
    }
    vec![answer(question, FINE, &[address])]
}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

impl Bench {
    /// With nothing in `hosts`, asking these.
    fn asking(servers: &[SocketAddr], over_tcp: bool) -> Self {
        let bench = Self::new(fine);
        let resolvers = Resolvers {
            servers: servers.to_vec(),
            over_tcp,
            unreadable: vec![],
        };
        let setup = Setup {
            tls: Tls::new(bench.authority.pem()).unwrap(),
            resolver: Resolver::asking(resolvers, "".into()),
        };
        *bench.outbound.setup.borrow_mut() = Some(Rc::new(setup));
        bench
    }

    /// A request over a connection of its own.
    async fn afresh(&self) -> Result<Answer, OutboundError> {
        self.outbound.idle.borrow_mut().clear();
        self.send().await
    }
}

/// What the request came to, and how long that took, with these resolvers.
async fn asking(servers: &[SocketAddr]) -> (Result<Answer, OutboundError>, Duration) {
    let bench = Bench::asking(servers, false);
    let began = Instant::now();
    (bench.send().await, began.elapsed())
}

#[tokio::test]
async fn a_resolver_is_asked_once_while_its_answer_lives() {
    local(async || {
        let resolver = FakeResolver::new(|question, _| honest(question, LOOPBACK));
        let bench = Bench::asking(&[resolver.at], false);
        for _ in 0..3 {
            bench.afresh().await.unwrap();
        }
        assert_eq!(resolver.asked(), 2, "A and AAAA");
        // Where it led is dead now: the next who asks finds out anew.
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let dead = bench
            .outbound
            .send(&permit(), &post(NAME, port), BUDGET)
            .await;
        assert!(matches!(dead, Err(OutboundError::Connect(..))));
        bench.afresh().await.unwrap();
        assert_eq!(resolver.asked(), 4);
    })
    .await;
}

#[tokio::test]
async fn what_is_too_long_for_a_datagram_comes_over_tcp() {
    local(async || {
        let resolver = FakeResolver::new(|question, tcp| match tcp {
            true => honest(question, LOOPBACK),
            false => vec![answer(question, TRUNCATED, &[])],
        });
        assert!(asking(&[resolver.at]).await.0.is_ok());
        let bench = Bench::asking(&[resolver.at], true);
        let before = resolver.asked();
        bench.send().await.unwrap();
        assert_eq!(resolver.asked(), before, "use-vc: no datagram");
        let always = FakeResolver::new(|question, _| vec![answer(question, TRUNCATED, &[])]);
        let refused = asking(&[always.at]).await.0.unwrap_err();
        assert!(refused.to_string().contains("over TCP"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn another_resolver_is_asked_where_one_fails_is_gone_or_silent() {
    local(async || {
        let good = FakeResolver::new(|question, _| honest(question, LOOPBACK));
        let fails = FakeResolver::new(|question, _| vec![answer(question, SERVFAIL, &[])]);
        let silent = FakeResolver::new(|_, _| vec![]);
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gone = gone.local_addr().unwrap();
        for first in [fails.at, silent.at, gone] {
            let (outcome, _) = asking(&[first, good.at]).await;
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        assert_eq!(silent.asked(), 2, "A and AAAA, once each");
        let refused = asking(&[fails.at]).await.0.unwrap_err();
        assert!(refused.to_string().contains("SERVFAIL"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    local(async || {
        let lost = AtomicUsize::new(2);
        let resolver = FakeResolver::new(move |question, _| {
            let lose = |left: usize| left.checked_sub(1);
            match lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose) {
                Ok(_) => vec![],
                Err(_) => honest(question, LOOPBACK),
            }
        });
        assert!(asking(&[resolver.at]).await.0.is_ok());
    })
    .await;
}

#[tokio::test]
async fn who_lies_is_not_heard_and_who_is_silent_costs_little() {
    local(async || {
        let forged = |question: &[u8]| {
            let mut false_id = answer(question, FINE, &[LOOPBACK]);
            false_id[0] ^= 1;
            let mut false_name = answer(question, FINE, &[LOOPBACK]);
            false_name[13] ^= 1;
            vec![vec![], false_id, false_name]
        };
        let liar = FakeResolver::new(move |question, _| forged(question));
        let (refused, took) = asking(&[liar.at]).await;
        let refused = refused.unwrap_err();
        assert!(refused.to_string().contains("in time"), "{refused}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        // The truth behind the lies is heard.
        let both = FakeResolver::new(move |question, _| {
            [forged(question), honest(question, LOOPBACK)].concat()
        });
        assert!(asking(&[both.at]).await.0.is_ok());
        let drip = FakeResolver::new(|question, _| {
            std::thread::sleep(Duration::from_millis(700));
            honest(question, LOOPBACK)
        });
        let (refused, took) = asking(&[drip.at]).await;
        assert!(refused.unwrap_err().to_string().contains("in time"));
        assert!(took < Duration::from_secs(2), "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn one_family_is_enough_whatever_becomes_of_the_other() {
    local(async || {
        for other in [None, Some(SERVFAIL), Some(NXDOMAIN)] {
            let resolver = FakeResolver::new(move |question, _| match other {
                _ if !is_v6(question) => honest(question, LOOPBACK),
                Some(flags) => vec![answer(question, flags, &[])],
                None => vec![],
            });
            let (outcome, took) = asking(&[resolver.at]).await;
            assert!(outcome.is_ok(), "{other:?}: {outcome:?}");
            assert!(took < LIMIT_OF_A_NAME, "{took:?}");
        }
    })
    .await;
}

/// Beside what the handshake takes, on a busy machine.
const LIMIT_OF_A_NAME: Duration = Duration::from_secs(2);

#[tokio::test]
async fn no_resolver_no_name_and_no_address_are_told_apart() {
    local(async || {
        let refused = asking(&[]).await.0.unwrap_err();
        assert!(refused.to_string().contains("nameserver"), "{refused}");
        for flags in [NXDOMAIN, FINE] {
            let resolver = FakeResolver::new(move |question, _| vec![answer(question, flags, &[])]);
            let refused = asking(&[resolver.at]).await.0.unwrap_err();
            assert!(refused.to_string().contains("no such name"), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_led_to_a_metadata_service() {
    local(async || {
        for address in [
            [169, 254, 169, 254],
            [168, 63, 129, 16],
            [192, 0, 2, 80],
            [0; 4],
        ] {
            // An honest address beside it makes it no better.
            let resolver = FakeResolver::new(move |question, _| match is_v6(question) {
                true => vec![answer(question, FINE, &[])],
                false => vec![answer(question, FINE, &[LOOPBACK, address])],
            });
            let bench = Bench::asking(&[resolver.at], false);
            bench
                .outbound
                .avoid(["192.0.2.80:80".parse().unwrap()].into_iter());
            let refused = bench.send().await.unwrap_err();
            assert!(matches!(refused, OutboundError::Forbidden(..)), "{refused}");
            assert!(bench.far.received().is_empty());
        }
        for line in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            let outbound = trusting(&Authority::new().unwrap(), &[line]);
            let refused = outbound.send(&permit(), &post(NAME, 443), BUDGET).await;
            assert!(
                matches!(refused, Err(OutboundError::Forbidden(..))),
                "{line}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_where_nobody_is_costs_no_more_than_a_moment() {
    local(async || {
        let bench = Bench::new(fine);
        // The far end is at 127.0.0.1 alone; ::1 and 127.0.0.9 refuse.
        let several = trusting(&bench.authority, &["::1", "127.0.0.9", "127.0.0.1"]);
        let outgoing = post(NAME, bench.far.address().port());
        several.send(&permit(), &outgoing, BUDGET).await.unwrap();
        let nobody = trusting(&bench.authority, &["127.0.0.9"]);
        let refused = nobody.send(&permit(), &outgoing, BUDGET).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Connect(..)), "{refused}");
    })
    .await;
}
