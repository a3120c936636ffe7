//! Ctrl-C and SIGTERM: all that lives in the world is ended, and whoever waits is told, so that everything is undone in the
//! usual way. Never ends this process itself: destructors have work to do.

use anyhow::{Context, Result};
use imds_guard_tests::World;
use nix::sys::signal::{SigSet, Signal};
use std::sync::mpsc::{Receiver, channel};

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

/// When one of them comes: end what runs in `world`, and say so on the channel.
pub(crate) fn end_on(signals: SigSet, world: &World) -> Receiver<()> {
    let kill = world.cgroup().join("cgroup.kill");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            // Where the cgroup is gone already, there is nobody left to end, and nobody left to tell.
            let _gone = std::fs::write(kill, "1");
            let _nobody = sender.send(());
        }
    });
    receiver
}
