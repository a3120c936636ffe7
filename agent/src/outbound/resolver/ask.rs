//! One question to one resolver.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use imds_guard_core::names::{Family, Found, Heard, Question, UDP_BYTES, hear};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::ResolveError;

/// Datagrams that aren't the answer, before we stop listening to this resolver.
const IGNORED: usize = 16;

/// Waits for as long as the resolver does not answer: whoever asks has a limit.
pub(super) async fn ask(
    server: SocketAddr,
    over_tcp: bool,
    name: &str,
    family: Family,
) -> Result<Found, ResolveError> {
    let id = random().map_err(|error| ResolveError::Unreachable(server, error))?;
    let question = Question::new(name, family, id).ok_or(ResolveError::NoSuchName)?;
    let unreachable = |error| ResolveError::Unreachable(server, error);
    let mut heard = Heard::Truncated;
    if !over_tcp {
        heard = datagrams(server, &question).await.map_err(unreachable)?;
    }
    if heard == Heard::Truncated {
        heard = stream(server, &question).await.map_err(unreachable)?;
    }
    match heard {
        Heard::Answer(found) => Ok(found),
        Heard::Fails(why) => Err(ResolveError::Fails(server, why)),
        Heard::Something => Err(ResolveError::Fails(server, "something else")),
        Heard::Truncated => Err(ResolveError::Fails(server, "half an answer over TCP")),
    }
}

/// A socket of its own for each question: the kernel chooses its port, which nobody else can tell.
async fn datagrams(server: SocketAddr, question: &Question) -> io::Result<Heard> {
    let socket = connected(server)?;
    socket.send(question.bytes()).await?;
    let mut buffer = [0; UDP_BYTES as usize];
    for _ in 0..IGNORED {
        let length = socket.recv(&mut buffer).await?;
        match hear(question, &buffer[..length]) {
            Heard::Something => {}
            heard => return Ok(heard),
        }
    }
    Ok(Heard::Something)
}

/// Without bind(2), which std's way to a socket has and the sandbox hasn't.
fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let family = match server {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server))?;
    UdpSocket::from_std(fd.into())
}

async fn stream(server: SocketAddr, question: &Question) -> io::Result<Heard> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.bytes().len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes(), question.bytes()].concat();
    stream.write_all(&message).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(hear(question, &answer))
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(u16::from_ne_bytes(bytes))
}
