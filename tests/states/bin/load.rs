//! Callers without end: `load THREADS STOP-FILE TARGET` dials Azure's metadata address over and over, each time a connection of its
//! own, until STOP-FILE is there; then one line says what became of all of them, from the first answer on.
//!
//! A refused connect, a connection that ended without an answer and an answer of the real service are three different things:
//! they are counted apart.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use imds_guard_tests::UPSTREAM_TOKEN;

/// Longer than anybody is made to wait.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Tally {
    /// Connects that were begun.
    begun: u64,
    /// Of those: refused by the kernel.
    refused: u64,
    /// Other failures of connect.
    failed: u64,
    /// Connected, and no answer came.
    unanswered: u64,
    /// Answers by status: 200, 4xx, 5xx.
    served: u64,
    denied: u64,
    broken: u64,
    /// Answers of the real service.
    unguarded: u64,
    /// The longest from connect to answer, in milliseconds.
    slowest_ms: u128,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.refused += other.refused;
        self.failed += other.failed;
        self.unanswered += other.unanswered;
        self.served += other.served;
        self.denied += other.denied;
        self.broken += other.broken;
        self.unguarded += other.unguarded;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }

    fn one(&mut self, target: &str) {
        let began = Instant::now();
        self.begun += 1;
        match TcpStream::connect_timeout(&SocketAddr::from(([169, 254, 169, 254], 80)), LIMIT) {
            Ok(stream) => match ask(stream, target) {
                Ok(answer) => self.answered(&answer),
                Err(_) => self.unanswered += 1,
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused += 1;
                // As fast as it can it would only measure the processor.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => self.failed += 1,
        }
        self.slowest_ms = self.slowest_ms.max(began.elapsed().as_millis());
    }

    fn answered(&mut self, answer: &str) {
        if answer.contains(UPSTREAM_TOKEN) {
            self.unguarded += 1;
        }
        match answer.get(9..10) {
            Some("2") => self.served += 1,
            Some("4") => self.denied += 1,
            Some(_) => self.broken += 1,
            None => self.unanswered += 1,
        }
    }
}

fn ask(mut stream: TcpStream, target: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n"
    )?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    // The real service keeps its connections.
    while !is_whole(&answer) {
        match stream.read(&mut buffer)? {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .split("\r\n")
        .find_map(|l| l.strip_prefix("content-length: "));
    length.is_some_and(|length| length.parse() == Ok(body.len()))
}

#[expect(clippy::print_stdout, reason = "its one way to answer")]
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("load THREADS STOP-FILE TARGET");
    let (threads, stop, target) = (next()?.parse::<usize>()?, next()?, next()?);
    // In a network namespace that is as new as we are nobody listens at first.
    let mut first = Tally::default();
    while first.served + first.denied == 0 && !Path::new(&stop).exists() {
        first.one(&target);
    }
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    while !Path::new(&stop).exists() {
                        tally.one(&target);
                    }
                    tally
                })
            })
            .collect();
        for thread in running {
            all.add(&thread.join().unwrap_or_default());
        }
    });
    let Tally {
        begun,
        refused,
        failed,
        unanswered,
        served,
        denied,
        broken,
        unguarded,
        slowest_ms,
    } = all;
    println!(
        "begun={begun} refused={refused} failed={failed} unanswered={unanswered} served={served} denied={denied} broken={broken} unguarded={unguarded} slowest_ms={slowest_ms}"
    );
    Ok(())
}
