//! The way to the service manager that `NOTIFY_SOCKET` names, and the guard's signs of life: sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Connects to it; a name that begins with `@` is abstract. What is sent there never waits: neither callers nor the guard do, for a
/// manager that doesn't read.
///
/// # Errors
/// It isn't there.
pub(crate) fn connected(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A sign of life of the guard's loop, where the manager asks for any. To be given between the parts of a long step too, each of
/// which has a limit of its own: so whoever is slow isn't taken for one that hangs, and a loop that hangs is silent. Never to be
/// given by another thread.
pub(crate) fn alive() {
    if let (Some(socket), Some(_)) = (
        std::env::var_os("NOTIFY_SOCKET"),
        sd_notify::watchdog_enabled(),
    ) && let Err(error) = connected(&socket).and_then(|to| to.send(b"WATCHDOG=1\n"))
    {
        tracing::warn!(%error, "the service manager can't be told that the guard lives");
    }
}
