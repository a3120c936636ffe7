//! `bench dial ADDRESS COUNT`: connections one after another, each asking who the other side is, each closed by a reset.
//!
//! The load under which the kernel programs are measured; a process of its own, for it runs as a workload in a world.

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// After so many the other side gets time to accept them all: a full queue would drop the next, for a second each.
const BREATH: u32 = 64;

/// Dial `count` times.
pub(crate) fn run(address: &str, count: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("ADDRESS:PORT")?;
    for number in 0..count.parse::<u32>().context("a count")? {
        let mut stream = TcpStream::connect(address).with_context(|| format!("dial {address}"))?;
        stream.peer_addr()?;
        if number % BREATH == 0 {
            // Connections are taken in order: an answer on this one means that all before it have been.
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())?;
        }
        // A reset leaves no port behind in TIME_WAIT: there are fewer ports than connections.
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &linger)?;
    }
    Ok(())
}
