//! Ctrl-C and SIGTERM: all that lives in the world is ended, and whoever waits is told, so that everything is undone in the
//! usual way. Never ends this process itself: destructors have work to do.

use anyhow::{Context, Result};
use imds_guard_tests::World;
use nix::sys::signal::{SigSet, Signal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// From here on, the signals that ask a program to end are answered by this module alone. Call it before any thread is
/// started; programs that are started get the usual mask.
pub(crate) fn hold() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .context("could not hold back signals")?;
    Ok(signals)
}

/// Whether one of them came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// When one comes: end what runs in `world`, and remember it.
    pub(crate) fn on(signals: SigSet, world: &World) -> Self {
        let kill = world.cgroup().join("cgroup.kill");
        let interrupt = Self::default();
        let came = interrupt.clone();
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                came.0.store(true, Ordering::Relaxed);
                // Where the cgroup is gone already, there is nobody left to end.
                let _gone = std::fs::write(kill, "1");
            }
        });
        interrupt
    }

    /// Whether to stop.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
