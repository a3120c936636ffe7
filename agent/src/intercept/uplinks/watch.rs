//! Hears when interfaces or routes change: an uplink may appear late, vanish, or come back with another number.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_ROUTE`, include/uapi/linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x40 | 0x400;

/// The kernel's notes about interfaces and routes of the network namespace in which it was made.
#[derive(Debug)]
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Begins to listen. Must be called within a tokio runtime with IO enabled.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn new() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(sys::watch::watch(fd, Interest::READABLE)?))
    }

    /// Waits for a change, and takes all notes that are there: what they say is looked up anyway. Cancel safe.
    pub async fn changed(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            let mut some = false;
            let mut note = [0; 256];
            // Notes that were lost are a change all the same.
            while let Ok(_) | Err(Errno::ENOBUFS) =
                recv(self.0.as_raw_fd(), &mut note, MsgFlags::MSG_DONTWAIT)
            {
                some = true;
            }
            ready.clear_ready();
            if some {
                return;
            }
        }
    }
}
