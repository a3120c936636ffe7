//! Callers that race: many connections by many threads, processes that follow each other under one number, namespaces that
//! come and go. Each connection claims who made it; whoever is refused, because the agent is just away, dials again.
//!
//! `racer crowd|heirs|nomads ADDRESS COUNT`, as root; prints `made=N again=N slipped=N`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    process::Command,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use imds_guard::sys::netns::loopback_up;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sched::{CloneFlags, unshare},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt::Linger},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid},
};

#[path = "../claim.rs"]
mod claim;
use claim::Claim;

/// Connections that each namespace of a nomad lives for.
const STAY: u64 = 50;
/// Threads of a crowd, and nomads at once.
const THREADS: u64 = 8;
const NOMADS: u64 = 4;
/// How often one connection is tried, with a pause between: a minute, on a busy machine.
const TRIES: u32 = 20_000;
const PAUSE: Duration = Duration::from_millis(3);

static MADE: AtomicU64 = AtomicU64::new(0);
static AGAIN: AtomicU64 = AtomicU64::new(0);
static SLIPPED: AtomicU64 = AtomicU64::new(0);

#[expect(clippy::print_stdout, reason = "its one way to answer")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, address, count] = arguments.as_slice() else {
        bail!("racer KIND ADDRESS COUNT")
    };
    let (address, count) = (address.parse()?, count.parse()?);
    match kind.as_str() {
        "crowd" => crowd(address, count)?,
        "heirs" => heirs(address, count)?,
        "nomads" => nomads(address, count)?,
        other => bail!("no kind {other}"),
    }
    let [made, again, slipped] = [&MADE, &AGAIN, &SLIPPED].map(|n| n.load(Relaxed));
    println!("made={made} again={again} slipped={slipped}");
    Ok(())
}

/// Until it stands: refused and reset ones are the agent's absences.
fn insist<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 1..TRIES {
        if let Ok(done) = attempt() {
            MADE.fetch_add(1, Relaxed);
            return Ok(done);
        }
        AGAIN.fetch_add(1, Relaxed);
        std::thread::sleep(PAUSE);
    }
    let last = attempt();
    MADE.fetch_add(1, Relaxed);
    last
}

fn each(threads: u64, work: impl Fn(u64) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| bail!("panicked")))
    })
}

fn crowd(to: SocketAddr, count: u64) -> anyhow::Result<()> {
    let claim = Claim::of_this_process()?.bytes();
    each(THREADS, |thread| {
        for i in (thread..count).step_by(usize::try_from(THREADS)?) {
            insist(|| one_of_many(to, &claim, i / THREADS))?;
        }
        Ok(())
    })
}

/// Half with an answer, a quarter fire-and-forget, a quarter reset at once.
fn one_of_many(to: SocketAddr, claim: &[u8], i: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    match i % 4 {
        0 | 1 => {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(claim)?;
            stream.read_exact(&mut [0])?;
            reset(&stream)
        }
        2 => Ok(stream.write_all(claim)?),
        _ => reset(&stream),
    }
}

/// Closing it will send a reset, and leave its port free at once.
fn reset(stream: &TcpStream) -> anyhow::Result<()> {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&stream.as_fd(), Linger, &now)?)
}

/// Processes one after the other, all with the same number, each as one of three users: it connects and ends at once, or
/// becomes another program.
fn heirs(to: SocketAddr, count: u64) -> anyhow::Result<()> {
    let claim = Claim::of_this_process()?;
    let mut number = None;
    for i in 0..count {
        insist(|| {
            let heir = match fork_as(number)? {
                Some(heir) => heir,
                None => end(heir(to, claim, i).is_err()),
            };
            number = Some(heir);
            match waitpid(heir, None)? {
                WaitStatus::Exited(_, 0) => Ok(()),
                other => bail!("{other:?}"),
            }
        })?;
    }
    Ok(())
}

#[expect(
    clippy::exit,
    reason = "the child must not go on with its parent's work"
)]
fn end(failed: bool) -> ! {
    std::process::exit(i32::from(failed))
}

fn heir(to: SocketAddr, parent: Claim, i: u64) -> anyhow::Result<()> {
    let id = 1500 + u32::try_from(i % 3)?;
    nix::unistd::setgroups(&[])?;
    nix::unistd::setgid(Gid::from_raw(id + 1000))?;
    nix::unistd::setuid(Uid::from_raw(id))?;
    let claim = Claim {
        tgid: std::process::id(),
        uid: id,
        gid: id + 1000,
        ..parent
    };
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(&claim.bytes())?;
    if i.is_multiple_of(10) {
        fcntl(stream.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        return Err(Command::new("/bin/true").exec().into());
    }
    if i.is_multiple_of(2) {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

/// fork(2) with a number of our choice, where it is free; `None` in the child.
fn fork_as(number: Option<Pid>) -> anyhow::Result<Option<Pid>> {
    let wanted = number.map_or(0, Pid::as_raw);
    let mut arguments = [0u64; 10];
    arguments[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    if number.is_some() {
        arguments[8] = (&raw const wanted) as u64;
        arguments[9] = 1;
    }
    // SAFETY: `struct clone_args` up to set_tid_size, all of it live; no flag, so this is fork. The process has one thread,
    // so its child may do anything.
    let made = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            arguments.as_mut_ptr(),
            size_of_val(&arguments),
        )
    };
    match nix::errno::Errno::result(made) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(Pid::from_raw(i32::try_from(pid)?))),
        // Somebody else has the number now.
        Err(nix::errno::Errno::EEXIST) if number.is_some() => fork_as(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Threads that go from namespace to namespace: each has the same addresses and the same few ports.
fn nomads(to: SocketAddr, count: u64) -> anyhow::Result<()> {
    let stays = count.div_ceil(STAY);
    each(NOMADS, |nomad| {
        for _ in (nomad..stays).step_by(usize::try_from(NOMADS)?) {
            let stay = std::thread::spawn(move || stay(to));
            stay.join().unwrap_or_else(|_| bail!("panicked"))?;
        }
        Ok(())
    })
}

fn stay(to: SocketAddr) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let service = service(to)?;
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20063")?;
    let claim = Claim::of_this_process()?.bytes();
    for i in 0..STAY {
        insist(|| {
            let mut stream = TcpStream::connect(to)?;
            if i % 4 != 3 {
                stream.write_all(&claim)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                stream.read_exact(&mut [0])?;
            }
            reset(&stream)
        })?;
    }
    while service.accept().is_ok() {
        SLIPPED.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// What stands for the real service in this namespace: the address, on its loopback, and a listener.
fn service(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let SocketAddr::V4(v4) = at else {
        bail!("IPv4 only")
    };
    loopback_up()?;
    let any = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo:1\0") {
        // Signed on x86-64, unsigned on arm64.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let address = libc::sockaddr_in {
        sin_family: 2,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(v4.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain data, and SIOCSIFADDR takes a sockaddr_in.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    // SAFETY: the call takes an ifreq, which is live and initialised.
    let set = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFADDR, &raw mut request) };
    nix::errno::Errno::result(set).context("the service's address")?;
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err());
    Ok(listener)
}
