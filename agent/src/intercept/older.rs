//! Connections to an enforced endpoint that are older than interception in force: ended, in each network namespace that the guard
//! can enter. No connect hook has seen them, so nobody knows whose they are. Where the kernel can't end them
//! (`CONFIG_INET_DIAG_DESTROY`), the packets' own layer drops what they send, and a word in the log says so.
//!
//! Must never end one of the proxy's own, which carry their endpoint's mark. What the early unit let pass carries another.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use nix::errno::Errno;

use super::Listeners;
use super::endpoints::endpoint_id;
use crate::sys::netns;

mod diag;

use diag::Diag;

/// Ends them on a thread of its own: a namespace may have a million sockets.
#[derive(Debug)]
pub struct Older(Sender<(Arc<Listeners>, Arc<[SocketAddr]>)>);

impl Older {
    /// `upstream`: the kernel's map of marks on the proxy's sockets.
    ///
    /// # Errors
    /// Without a thread.
    pub fn begin(upstream: OwnedFd) -> io::Result<Self> {
        let (to, work) = channel::<(Arc<Listeners>, Arc<[SocketAddr]>)>();
        let end = move || {
            for (listeners, endpoints) in work {
                tell(
                    listeners.netns_cookie,
                    ended(&listeners, &endpoints, upstream.as_fd()),
                );
            }
        };
        std::thread::Builder::new()
            .name("older".into())
            .stack_size(256 << 10)
            .spawn(end)?;
        Ok(Self(to))
    }

    /// Has all connections to `endpoints` ended that are open in the namespace of these listeners now.
    pub fn end(&self, listeners: &Arc<Listeners>, endpoints: &Arc<[SocketAddr]>) {
        if !endpoints.is_empty() {
            // The thread ends with the guard alone.
            drop(self.0.send((Arc::clone(listeners), Arc::clone(endpoints))));
        }
    }
}

fn ended(
    listeners: &Listeners,
    endpoints: &[SocketAddr],
    upstream: BorrowedFd<'_>,
) -> io::Result<usize> {
    let there = netns::of_socket(listeners.v4.as_fd())?;
    netns::within(&there, || end_here(endpoints, upstream))?
}

/// Ends them in the calling thread's namespace; how many.
fn end_here(endpoints: &[SocketAddr], upstream: BorrowedFd<'_>) -> io::Result<usize> {
    let mut diag = Diag::open()?;
    let ports: BTreeSet<u16> = endpoints.iter().map(SocketAddr::port).collect();
    let mut ended = 0;
    for port in ports {
        for socket in diag.connected_to(port, upstream)? {
            let ours = socket.mark == endpoint_id(socket.peer).get();
            if ours || !endpoints.contains(&socket.peer) {
                continue;
            }
            match diag.destroy(&socket) {
                Ok(()) => ended += 1,
                // It has ended by itself meanwhile.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(ended)
}

fn tell(netns: u64, outcome: io::Result<usize>) {
    match outcome {
        Ok(0) => {}
        Ok(count) => tracing::warn!(
            netns,
            count,
            "connections to enforced endpoints that were older than the guard are ended"
        ),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => tracing::warn!(
            netns,
            "this kernel can't end connections (CONFIG_INET_DIAG_DESTROY): those that are older than the guard stay open, and what they send is dropped"
        ),
        Err(error) => tracing::warn!(
            netns,
            %error,
            "connections that are older than the guard can't be ended: what they send is dropped"
        ),
    }
}
