//! `probe ADDRESS`: dial it, write `C` to stdout, then carry stdin to the connection and the connection to stdout.
//!
//! It is what a workload of a test runs, so that the connection is a real process's. Exits 7 when the connection is refused.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stderr,
    reason = "the reason for a refused connection is its output"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: probe ADDRESS:PORT");
        return ExitCode::from(2);
    };
    match TcpStream::connect(&address) {
        Ok(stream) => carry(stream),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(7)
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
fn pump(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            n => to.write_all(&piece[..n]).and_then(|()| to.flush())?,
        }
    }
}
