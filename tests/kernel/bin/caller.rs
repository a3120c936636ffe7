//! A caller that says who it is, and knows every odd way to connect.
//!
//! `caller KIND ADDRESS [ARGUMENTS]`; prints `ok …` or `errno N`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getpeername,
        setsockopt, socket,
        sockopt::{Linger, Mark},
    },
};

#[path = "../claim.rs"]
mod claim;
use claim::Claim;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, address, rest @ ..] = arguments.as_slice() else {
        bail!("caller KIND ADDRESS …")
    };
    let address: SocketAddr = address.parse()?;
    let number = |i: usize| -> anyhow::Result<u64> {
        Ok(rest.get(i).context("too few arguments")?.parse()?)
    };
    let outcome = match kind.as_str() {
        "once" => talk(stream(address)?, address),
        "mptcp" => talk(mptcp()?, address),
        "marked" => {
            let fd = stream(address)?;
            setsockopt(&fd, Mark, &u32::try_from(number(0)?)?)?;
            talk(fd, address)
        }
        "udp" => udp(address),
        "udps" => udps(address, number(0)?),
        "icmp" => icmp(address),
        "flood" => flood(address, number(0)?, number(1)?),
        "exec" => exec(address),
        "execs" => execs(address, number(0)?),
        "hand" => hand(address),
        "handed" => handed(address),
        "hand-after" => hand_after(address),
        "handed-after" => handed_after(),
        "reconnect" => reconnect(address, rest.first().context("where to")?.parse()?),
        other => bail!("no kind {other}"),
    };
    match outcome {
        Ok(text) => say(&format!("ok {text}")),
        Err(error) => match errno(&error) {
            Some(errno) => say(&format!("errno {errno}")),
            None => return Err(error),
        },
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "its one way to answer")]
fn say(line: &str) {
    println!("{line}");
}

fn errno(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|e| {
        e.downcast_ref::<nix::errno::Errno>()
            .map(|e| *e as i32)
            .or_else(|| e.downcast_ref::<std::io::Error>()?.raw_os_error())
    })
}

fn stream(address: SocketAddr) -> anyhow::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    Ok(socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// An IPv4 Multipath TCP socket, which nix can't name.
fn mptcp() -> anyhow::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: plain arguments.
    let fd = unsafe { libc::socket(libc::AF_INET, flags, libc::IPPROTO_MPTCP) };
    let fd = nix::errno::Errno::result(fd)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn dial(fd: &OwnedFd, to: SocketAddr) -> anyhow::Result<()> {
    Ok(connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?)
}

/// Connects, claims, waits for the answer, and says whom the kernel shows as the peer.
fn talk(fd: OwnedFd, to: SocketAddr) -> anyhow::Result<String> {
    dial(&fd, to)?;
    finish(fd)
}

fn finish(fd: OwnedFd) -> anyhow::Result<String> {
    let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd())?;
    claim_on(fd)?;
    Ok(peer.to_string())
}

fn claim_on(fd: OwnedFd) -> anyhow::Result<()> {
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&Claim::of_this_process()?.bytes())?;
    let mut answer = [0];
    Ok(stream.read_exact(&mut answer)?)
}

fn udp(to: SocketAddr) -> anyhow::Result<String> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    Ok(socket.peer_addr()?.to_string())
}

/// Dials `count` times with one socket: hardly more than the connect program runs.
fn udps(to: SocketAddr, count: u64) -> anyhow::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..count {
        socket.connect(to)?;
    }
    Ok(count.to_string())
}

/// A ping socket; needs net.ipv4.ping_group_range.
fn icmp(to: SocketAddr) -> anyhow::Result<String> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )?;
    dial(&fd, to)?;
    Ok("connected".into())
}

/// `count` connections by `threads` threads: half with an answer, a quarter fire-and-forget, a quarter reset at once.
fn flood(to: SocketAddr, count: u64, threads: u64) -> anyhow::Result<String> {
    let claim = Claim::of_this_process()?.bytes();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..count)
                        .step_by(usize::try_from(threads).unwrap_or(1))
                        .filter_map(|i| one_of_many(to, &claim, i).err())
                        .map(|e| format!("{e:#}"))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap_or_else(|_| vec!["panicked".into()]))
            .collect()
    });
    match failed.first() {
        None => Ok(format!("{count}")),
        Some(first) => bail!("{} of {count} failed, the first: {first}", failed.len()),
    }
}

fn one_of_many(to: SocketAddr, claim: &[u8], i: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to).context("connect")?;
    let reset = |s: &TcpStream| {
        setsockopt(
            &s.as_fd(),
            Linger,
            &libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )
    };
    // Threads take every n-th number: the kind comes from the higher bits, so that each thread has all kinds.
    match (i / 8) % 4 {
        0 | 1 => {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(claim).context("write")?;
            stream.read_exact(&mut [0]).context("answer")?;
            reset(&stream)?;
        }
        2 => stream.write_all(claim).context("write")?,
        _ => reset(&stream)?,
    }
    Ok(())
}

/// Connects and becomes another program at once; the connection stays open in it.
fn exec(to: SocketAddr) -> anyhow::Result<String> {
    let claim = Claim::of_this_process()?.bytes();
    let fd = stream(to)?;
    dial(&fd, to)?;
    let mut stream = TcpStream::from(fd);
    stream.write_all(&claim)?;
    fcntl(stream.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    Err(Command::new("/bin/sleep").arg("0.05").exec().into())
}

fn execs(to: SocketAddr, count: u64) -> anyhow::Result<String> {
    let mut done = 0;
    for _ in 0..count {
        let status = Command::new("/proc/self/exe")
            .args(["exec", &to.to_string()])
            .status()?;
        done += u32::from(status.success());
    }
    Ok(done.to_string())
}

/// Makes a socket and hands it, not connected, to another process.
fn hand(to: SocketAddr) -> anyhow::Result<String> {
    let child = Command::new("/proc/self/exe")
        .args(["handed", &to.to_string()])
        .stdin(Stdio::from(stream(to)?))
        .output()?;
    Ok(String::from_utf8_lossy(&child.stdout).trim().to_owned())
}

/// The other process: connects what it was handed, and claims its own identity.
fn handed(to: SocketAddr) -> anyhow::Result<String> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    talk(fd, to)
}

/// Connects, then hands the connection to another process, which says nothing of its own: the claim is ours.
fn hand_after(to: SocketAddr) -> anyhow::Result<String> {
    let fd = stream(to)?;
    dial(&fd, to)?;
    let claim = Claim::of_this_process()?;
    let child = Command::new("/proc/self/exe")
        .args(["handed-after", &to.to_string()])
        .env("CLAIM", claim.bytes().map(|b| b.to_string()).join(","))
        .stdin(Stdio::from(fd))
        .output()?;
    Ok(String::from_utf8_lossy(&child.stdout).trim().to_owned())
}

fn handed_after() -> anyhow::Result<String> {
    let bytes: Vec<u8> = std::env::var("CLAIM")?
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd())?;
    let mut stream = TcpStream::from(fd);
    stream.write_all(&bytes)?;
    stream.read_exact(&mut [0])?;
    Ok(peer.to_string())
}

/// Connects, disconnects (AF_UNSPEC), and dials the listener itself with the same socket.
fn reconnect(to: SocketAddr, listener: SocketAddr) -> anyhow::Result<String> {
    let fd = stream(to)?;
    dial(&fd, to)?;
    let unspecified = libc::sockaddr {
        sa_family: 0,
        sa_data: [0; 14],
    };
    // SAFETY: a live sockaddr of the length given. nix has no way to name AF_UNSPEC.
    let result = unsafe {
        libc::connect(
            fd.as_raw_fd(),
            &raw const unspecified,
            libc::socklen_t::try_from(size_of::<libc::sockaddr>())?,
        )
    };
    nix::errno::Errno::result(result)?;
    dial(&fd, listener)?;
    finish(fd)
}
