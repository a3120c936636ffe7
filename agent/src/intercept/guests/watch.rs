//! Wakes the guard when interfaces come, go or change, and when anybody changes the packet filter's rules.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockProtocol, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::links;
use crate::sys::watch::watch;

/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
/// `NFNLGRP_NFTABLES` (7), as a bit.
const RULES: u32 = 1 << 6;

/// What woke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Interfaces.
    Links,
    /// Rules, ours or somebody else's.
    Rules,
}

/// Both ears.
#[derive(Debug)]
pub(super) struct Watch {
    links: AsyncFd<OwnedFd>,
    rules: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Needs the runtime.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            links: watch(
                links::open(SockProtocol::NetlinkRoute, LINKS)?,
                Interest::READABLE,
            )?,
            rules: watch(
                links::open(SockProtocol::NetlinkNetFilter, RULES)?,
                Interest::READABLE,
            )?,
        })
    }

    /// The next change; several at once are one. Cancel safe.
    pub(super) async fn next(&self) -> io::Result<Change> {
        tokio::select! {
            heard = drained(&self.links) => heard.map(|()| Change::Links),
            heard = drained(&self.rules) => heard.map(|()| Change::Rules),
        }
    }
}

/// Waits until there is something to read, and reads until there is nothing. What was said doesn't matter: who hears it
/// looks for himself, so what got lost (`ENOBUFS`) doesn't, either.
async fn drained(socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    let mut some = [0; 512];
    loop {
        match recv(socket.as_raw_fd(), &mut some, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                ready.clear_ready();
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}
