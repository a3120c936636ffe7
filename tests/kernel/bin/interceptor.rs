//! Interception alone: starts it, takes what is steered, and compares each record with what the caller claims.
//!
//! `interceptor CGROUP-ROOT PIN-DIR PORT ENDPOINTS`, with ENDPOINTS as `ADDRESS,PORT,MODE,ID;…`. One line per answer on
//! standard output; commands come as lines on standard input: `tally`, `counters`, `endpoints …`, `upstream ID ADDRESS`,
//! `forge`, `event`, `spaces`, `quit`.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroU32,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use imds_guard::{
    intercept::{
        CallerRecord, Change, GuardedEndpoint, Hardening, Interceptor, Listeners, Mode, Settings,
    },
    sys::bpf,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

#[path = "../claim.rs"]
mod claim;
use claim::Claim;

/// Takers per listener, in our own network namespace and in others.
const TAKERS: usize = 12;
const TAKERS_ELSEWHERE: usize = 2;

/// Process, uid, gid, cgroup, executable, network namespace.
type Caller = (u32, u32, u32, u64, u64, u64);

#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    missing: u64,
    wrong: u64,
    silent: u64,
    claims: HashSet<Caller>,
    unclaimed: HashSet<Caller>,
    last: Option<CallerRecord>,
    oddity: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("too few arguments");
    let settings = Settings {
        cgroup_root: Some(PathBuf::from(next()?)),
        pin_dir: next()?.into(),
        port: next()?.parse()?,
        endpoints: endpoints(&next()?)?,
        issuer: None,
        hardening: Hardening::default(),
    };
    let started = Instant::now();
    let mut interceptor = match Interceptor::start(&settings) {
        Ok(interceptor) => interceptor,
        Err(error) => {
            say(&format!("error {error}"));
            bail!("{error}");
        }
    };
    let took = started.elapsed();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let listeners = interceptor.open_listeners().context("no listeners")?;
    let records = Arc::new(interceptor.attribution_fd_readonly().try_clone_to_owned()?);
    accept(&listeners, TAKERS, &records, &tally)?;
    let mut namespaces = interceptor.namespaces().context("no namespaces")?;
    let open = Arc::new(Mutex::new(HashMap::new()));
    let (all, taken) = (Arc::clone(&open), Arc::clone(&tally));
    std::thread::spawn(move || {
        while let Some(change) = namespaces.wait() {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            match change {
                Change::Opened(listeners) => {
                    let accepted = accept(&listeners, TAKERS_ELSEWHERE, &records, &taken);
                    all.insert(listeners.netns_cookie, accepted.map(|()| listeners));
                }
                Change::Closed { netns_cookie } => drop(all.remove(&netns_cookie)),
            }
        }
    });
    say(&format!(
        "ready {} {} {}",
        took.as_micros(),
        listeners.netns_cookie,
        interceptor.is_fresh()
    ));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "quit" {
            break;
        }
        let answer = if line == "spaces" {
            let open = open.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(format!("open={}", open.len()))
        } else {
            obey(&line, &mut interceptor, &tally)
        };
        say(&answer.unwrap_or_else(|e| format!("error {e:#}")));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "its one way to answer")]
fn say(line: &str) {
    println!("{line}");
    let _reader_gone = std::io::stdout().flush();
}

fn endpoints(text: &str) -> anyhow::Result<Vec<GuardedEndpoint>> {
    text.split(';')
        .filter(|t| !t.is_empty())
        .map(|one| {
            let parts: Vec<&str> = one.split(',').collect();
            let [address, port, mode, id] = parts[..] else {
                bail!("not ADDRESS,PORT,MODE,ID: {one}")
            };
            Ok(GuardedEndpoint {
                address: address.parse()?,
                port: port.parse()?,
                mode: match mode {
                    "observe" => Mode::Observe,
                    "audit" => Mode::Audit,
                    "enforce" => Mode::Enforce,
                    other => bail!("no mode {other}"),
                },
                id: NonZeroU32::new(id.parse()?).context("id 0")?,
                denies: false,
                other_traffic: None,
            })
        })
        .collect()
}

fn obey(line: &str, interceptor: &mut Interceptor, tally: &Mutex<Tally>) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["tally"] => Ok(report(
            &tally.lock().unwrap_or_else(PoisonError::into_inner),
        )),
        ["counters"] => Ok(interceptor
            .counters()?
            .iter()
            .map(|(c, n)| format!("{c:?}={n}"))
            .collect::<Vec<_>>()
            .join(" ")),
        ["endpoints", text] => {
            interceptor.set_endpoints(&endpoints(text)?)?;
            Ok("ok".into())
        }
        ["upstream", id, address] => upstream(interceptor, id.parse()?, address.parse()?),
        ["forge"] => forge(interceptor),
        ["event"] => event(interceptor),
        _ => bail!("no command {line}"),
    }
}

fn report(tally: &Tally) -> String {
    let strangers = tally.unclaimed.difference(&tally.claims).count();
    // Who is never claimed to be: a user in another's cgroup, for one. (A process may end before it has said anything.)
    let kind = |caller: &Caller| (caller.1, caller.2, caller.3, caller.4);
    let kinds: HashSet<_> = tally.claims.iter().map(kind).collect();
    let crossed = tally
        .unclaimed
        .iter()
        .filter(|c| !kinds.contains(&kind(c)))
        .count();
    let last = tally.last.map_or(String::new(), |r| format!(" {r:?}"));
    format!(
        "accepted={} missing={} wrong={} silent={} strangers={strangers} callers={} crossed={crossed} oddity={:?}{last}",
        tally.accepted,
        tally.missing,
        tally.wrong,
        tally.silent,
        tally.claims.len(),
        tally.oddity
    )
}

fn accept(
    listeners: &Listeners,
    takers: usize,
    records: &Arc<OwnedFd>,
    tally: &Arc<Mutex<Tally>>,
) -> anyhow::Result<()> {
    for fd in std::iter::once(&listeners.v4).chain(&listeners.v6) {
        let listener = TcpListener::from(fd.try_clone()?);
        listener.set_nonblocking(false)?;
        for _ in 0..takers {
            let (listener, records) = (listener.try_clone()?, Arc::clone(records));
            let tally = Arc::clone(tally);
            std::thread::spawn(move || take(&listener, &records, &tally));
        }
    }
    Ok(())
}

/// Accepts until the listener is shut down. The record is read before a byte of the caller is.
fn take(listener: &TcpListener, records: &OwnedFd, tally: &Mutex<Tally>) {
    for stream in listener.incoming() {
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
            Err(_) => continue,
        };
        let record = bpf::lookup_record(records.as_fd(), stream.as_fd());
        let claim = read_claim(&mut stream);
        let _gone = stream.write_all(b"k");
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        enter(&mut tally, record, claim);
    }
}

fn enter(tally: &mut Tally, record: std::io::Result<Option<CallerRecord>>, claim: Option<Claim>) {
    tally.accepted += 1;
    let record = match record {
        Ok(Some(record)) => record,
        other => {
            tally.missing += 1;
            tally.oddity = Some(format!("{other:?}"));
            return;
        }
    };
    tally.last = Some(record);
    let recorded = (
        record.tgid,
        record.uid,
        record.gid,
        record.cgroup_id,
        record.exe_inode,
        record.netns_cookie,
    );
    let Some(Claim {
        tgid,
        uid,
        gid,
        cgroup,
        exe,
        netns,
    }) = claim
    else {
        tally.silent += 1;
        tally.unclaimed.insert(recorded);
        return;
    };
    let claimed = (tgid, uid, gid, cgroup, exe, netns);
    let same_ids = (record.effective_uid, record.effective_gid) == (uid, gid);
    if recorded != claimed || !same_ids || record.missing != 0 {
        tally.wrong += 1;
        tally.oddity = Some(format!("claimed {claimed:?}, recorded {record:?}"));
    }
    tally.claims.insert(claimed);
}

fn read_claim(stream: &mut TcpStream) -> Option<Claim> {
    let mut bytes = [0; claim::LENGTH];
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.read_exact(&mut bytes).ok()?;
    parse(&bytes)
}

/// Connects as the proxy's upstream does: marked before.
fn upstream(interceptor: &Interceptor, id: u32, address: SocketAddr) -> anyhow::Result<String> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bpf::mark_upstream(interceptor.upstream_fd(), fd.as_fd(), id)?;
    let to = SockaddrStorage::from(address);
    if let Err(errno) = connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &to) {
        return Ok(format!("errno {errno}"));
    }
    let mut stream = TcpStream::from(fd);
    let _gone = stream.write_all(&Claim::of_this_process()?.bytes());
    let mut answer = [0];
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.read_exact(&mut answer)?;
    Ok(format!("answer {}", char::from(answer[0])))
}

/// What a proxy that was taken over would try with its descriptors.
fn forge(interceptor: &Interceptor) -> anyhow::Result<String> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let readonly = interceptor.attribution_fd_readonly();
    let overwrite = bpf::overwrite_record(readonly, fd.as_fd(), &CallerRecord::ZERO);
    let after = look(readonly, fd.as_fd());
    Ok(format!(
        "{} {after}",
        overwrite.map_or_else(|e| e.raw_os_error().unwrap_or(0), |()| 0)
    ))
}

fn look(records: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> String {
    match bpf::lookup_record(records, socket) {
        Ok(Some(_)) => "record".into(),
        Ok(None) => "none".into(),
        Err(e) => e.to_string(),
    }
}

/// The next note about a connection that was let through.
fn event(interceptor: &mut Interceptor) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut events = interceptor.events()?;
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await??;
        Ok(format!(
            "protocol={} mode={} uid={} endpoint={} port={}",
            event.protocol,
            event.mode,
            event.record.uid,
            event.record.endpoint_id,
            event.record.port
        ))
    })
}

/// What a caller claims.
fn parse(bytes: &[u8; claim::LENGTH]) -> Option<Claim> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes[at..at + 4].try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(bytes[at..at + 8].try_into().ok()?));
    (word(0)? == claim::MAGIC).then_some(())?;
    Some(Claim {
        tgid: word(4)?,
        uid: word(8)?,
        gid: word(12)?,
        cgroup: long(16)?,
        exe: long(24)?,
        netns: long(32)?,
    })
}
