//! The kernel's notes about connections that it let through: endpoints in observe, in audit what
//! can not be steered; and, in enforce, about those that it refused for their socket's sake.

use std::{fmt, io};

use aya::maps::{MapData, RingBuf};
use imds_guard_ebpf::ObserveEvent;
use tokio::io::unix::AsyncFd;

use crate::sys::bpf;

/// Reads them, in order. Notes that found no room are counted in [`imds_guard_ebpf::Counter::EventLost`].
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Must be called within a tokio runtime with IO enabled.
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        Ok(Self {
            ring: bpf::watch(ring)?,
        })
    }

    /// The next one; waits for it. Cancel safe.
    ///
    /// # Errors
    /// If the descriptor can't be polled.
    pub async fn next(&mut self) -> io::Result<ObserveEvent> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(event) = ready
                .get_inner_mut()
                .next()
                .and_then(|b| bpf::event_from(&b))
            {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }
}
