//! Ctrl-C and SIGTERM: all that lives in the world is ended, and whoever waits is told, so that everything is undone in the
//! usual way. Never ends this process itself: destructors have work to do. Handlers, not a blocked mask: a mask would be
//! inherited by every program that the demo starts, and the agent would be deaf to SIGTERM.

use anyhow::{Context, Result};
use imds_guard_tests::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether one of them came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// When one comes: end what runs in `world`, and remember it.
    pub(crate) fn on(world: &World) -> Result<Self> {
        let kill = world.cgroup().join("cgroup.kill");
        let interrupt = Self::default();
        let came = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("a runtime to wait for signals")?;
        std::thread::spawn(move || {
            if runtime.block_on(ending()).is_ok() {
                came.0.store(true, Ordering::Relaxed);
                // Where the cgroup is gone already, there is nobody left to end.
                let _gone = std::fs::write(kill, "1");
            }
        });
        Ok(interrupt)
    }

    /// Whether to stop.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns when a signal asks this program to end.
async fn ending() -> std::io::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        _ = hung_up.recv() => {}
    }
    Ok(())
}
