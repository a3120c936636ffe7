//! People who move into network namespaces of their own, and how long it takes until they are served there.
//!
//! `settler town COUNT ADDRESS`: COUNT processes, each in its own namespace, all at once; `settler row COUNT ADDRESS`: one
//! after the other. Each dials at once, and again while it is refused. Prints one line of figures; each line that comes on
//! standard input makes all of them ask for TARGET (that line), and prints how many got which status.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its one way to answer")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["town", count, address] => town(count.parse()?, address, true),
        ["row", count, address] => town(count.parse()?, address, false),
        ["settle", address] => settle(address.parse()?),
        _ => bail!("settler town|row COUNT ADDRESS"),
    }
}

/// Moves, dials until it is served, says how long that took and how often it dialled, and then asks as it is told.
fn settle(address: SocketAddr) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let from = Instant::now();
    let mut dials = 1;
    while let Err(error) = TcpStream::connect(address) {
        if error.kind() != std::io::ErrorKind::ConnectionRefused || from.elapsed().as_secs() > 20 {
            bail!("after {dials} times: {error}");
        }
        dials += 1;
        std::thread::sleep(Duration::from_micros(50));
    }
    println!("{} {dials}", from.elapsed().as_micros());
    for target in std::io::stdin().lock().lines() {
        println!("{}", insist(address, &target?));
    }
    Ok(())
}

/// The status of an answer, or what is wrong. More at once than one caller may have come back, as SDKs do.
fn insist(address: SocketAddr, target: &str) -> String {
    let from = Instant::now();
    loop {
        match ask(address, target) {
            Ok(status) if status == "429" && from.elapsed().as_secs() < 60 => {
                std::thread::sleep(Duration::from_millis(100));
            }
            outcome => return outcome.unwrap_or_else(|error| format!("{error:#}")),
        }
    }
}

/// The status of an answer.
fn ask(address: SocketAddr, target: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
    )?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(String::from_utf8_lossy(&head[9..]).into_owned())
}

struct Settler {
    _process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Settler {
    fn start(address: &str) -> Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .args(["settle", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            to: process.stdin.take().context("no pipe")?,
            from: BufReader::new(process.stdout.take().context("no pipe")?),
            _process: process,
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

fn town(count: usize, address: &str, at_once: bool) -> Result<()> {
    let from = Instant::now();
    let (mut all, mut figures) = (vec![], vec![]);
    for _ in 0..count {
        let mut one = Settler::start(address)?;
        if !at_once {
            figures.push(one.line()?);
        }
        all.push(one);
    }
    if at_once {
        for one in &mut all {
            figures.push(one.line()?);
        }
    }
    println!(
        "{} all_ms={}",
        summary(&figures)?,
        from.elapsed().as_millis()
    );
    for target in std::io::stdin().lock().lines() {
        let target = target?;
        for one in &mut all {
            writeln!(one.to, "{target}")?;
        }
        let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
        for one in &mut all {
            *statuses.entry(one.line()?).or_default() += 1;
        }
        println!("{statuses:?}");
    }
    Ok(())
}

fn summary(figures: &[String]) -> Result<String> {
    let mut took = vec![];
    let mut first_try = 0;
    for line in figures {
        let (micros, dials) = line
            .split_once(' ')
            .with_context(|| format!("unserved: {line}"))?;
        took.push(micros.parse::<u64>()?);
        first_try += u32::from(dials == "1");
    }
    took.sort_unstable();
    let at = |part: usize| {
        took.get((took.len() * part / 100).min(took.len() - 1))
            .copied()
            .unwrap_or(0)
    };
    Ok(format!(
        "settled={} first_try={first_try} median_us={} p90_us={} p99_us={} max_us={}",
        took.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    ))
}
