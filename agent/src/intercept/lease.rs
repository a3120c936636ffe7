//! The guard's word that it lives, to the kernel. Listeners may outlive it, in the service manager's hands, so that callers of a
//! restart wait instead of failing. Without a limit they would wait for an agent that never comes back: so the programs steer
//! to a listener only while the guard has said within [`LEASE`] that it is there; then they refuse, or in audit let pass.
//!
//! A thread of its own says it, so that it tells of the process and not of how busy the loop is: a caller that could make the
//! loop slow could else end an enforced deny in audit. A loop that hangs is the watchdog's affair.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use aya::maps::{Array, MapData, MapError};

use super::InterceptError;
use crate::sys::clock;

/// How long callers wait for a guard that is gone. A restart takes a part of a second, and clients of a metadata service give
/// up after some seconds.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed: several may be late or lost.
const EVERY: Duration = Duration::from_millis(500);

/// Renewed until it is dropped; then it runs out.
#[derive(Debug)]
pub(super) struct Lease(#[expect(dead_code, reason = "its end ends the thread")] Sender<()>);

impl Lease {
    /// Begins, with the first word said when it returns.
    pub(super) fn begin(mut map: Array<MapData, u64>) -> Result<Self, InterceptError> {
        renew(&mut map).map_err(|error| InterceptError::WrongObject {
            detail: error.to_string(),
        })?;
        let (alive, ended) = channel();
        let renewing = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
                if let Err(error) = renew(&mut map) {
                    tracing::error!(%error, "the kernel can't be told that the guard lives: callers are refused");
                }
            }
        };
        std::thread::Builder::new()
            .name("lease".into())
            .stack_size(64 << 10)
            .spawn(renewing)
            .map_err(InterceptError::system("the thread that renews the lease"))?;
        Ok(Self(alive))
    }
}

fn renew(map: &mut Array<MapData, u64>) -> Result<(), MapError> {
    let until = clock::monotonic() + LEASE;
    map.set(0, u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), 0)
}
