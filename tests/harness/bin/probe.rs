//! `probe [OPTION…] ADDRESS`: dial it, write `C` to stdout, then carry stdin to the connection and the connection to stdout.
//!
//! It is what a workload of a test runs, so that the connection is a real process's. Exits 7 when the connection is refused.
//! Options are what programs do to a socket before they connect it: `--device=NAME`, `--mark=NUMBER`, `--source=ADDRESS`;
//! `--within=MILLISECONDS` is how long the kernel may try; `--again=MILLISECONDS` is for how long a refused one is dialled anew.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "the reason for a refused connection is its output"
)]

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(address) = arguments.pop() else {
        eprintln!("usage: probe [OPTION…] ADDRESS:PORT");
        return ExitCode::from(2);
    };
    let until = Instant::now() + again(&arguments);
    let dialled = loop {
        match dial(&address, &arguments) {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            outcome => break outcome,
        }
    };
    match dialled {
        Ok(stream) => carry(stream),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(7)
        }
    }
}

fn again(options: &[String]) -> Duration {
    let of = |option: &String| option.strip_prefix("--again=")?.parse().ok();
    Duration::from_millis(options.iter().find_map(of).unwrap_or(0))
}

fn dial(address: &str, options: &[String]) -> Result<TcpStream> {
    let address: SocketAddr = address.parse().map_err(Error::other)?;
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "--device" => setsockopt(&fd, sockopt::BindToDevice, &value.into())?,
            "--mark" => {
                let mark = value.parse().map_err(Error::other)?;
                setsockopt(&fd, sockopt::Mark, &mark)?;
            }
            "--source" => {
                let source: IpAddr = value.parse().map_err(Error::other)?;
                bind(
                    fd.as_raw_fd(),
                    &SockaddrStorage::from(SocketAddr::new(source, 0)),
                )?;
            }
            "--within" => {
                let milliseconds = value.parse().map_err(Error::other)?;
                setsockopt(
                    &fd,
                    sockopt::SendTimeout,
                    &TimeVal::milliseconds(milliseconds),
                )?;
            }
            "--again" => {}
            _ => return Err(Error::other(format!("no such option: {option}"))),
        }
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        // What connect(2) says when SO_SNDTIMEO is over.
        Err(nix::errno::Errno::EINPROGRESS) => Err(ErrorKind::TimedOut.into()),
        done => {
            done?;
            Ok(TcpStream::from(fd))
        }
    }
}

fn carry(stream: TcpStream) -> ExitCode {
    let Ok(mut sending) = stream.try_clone() else {
        return ExitCode::FAILURE;
    };
    let mut out = std::io::stdout();
    let connected = out.write_all(b"C").and_then(|()| out.flush());
    std::thread::spawn(move || {
        let copied = pump(&mut std::io::stdin(), &mut sending);
        let closed = sending.shutdown(Shutdown::Write);
        copied.and(closed)
    });
    let mut receiving = stream;
    match connected.and_then(|()| pump(&mut receiving, &mut out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Like `io::copy`, flushing after each piece: stdout is line buffered, and heads end in the middle of nowhere.
fn pump(from: &mut impl Read, to: &mut impl Write) -> Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            n => to.write_all(&piece[..n]).and_then(|()| to.flush())?,
        }
    }
}
