//! Telling the service manager, where there is one. Never waits for it: a manager that is busy with itself (its own
//! reload, another service's flood) must not stop every caller on this host.

use std::ffi::OsStr;
use std::io;

use sd_notify::NotifyState;

use crate::notify::connected;

/// Says `state`, or logs that it could not be said.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

fn send(socket: &OsStr, state: &[NotifyState<'_>]) -> io::Result<()> {
    let mut text = String::new();
    for line in state {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    connected(socket)?.send(text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_manager_that_reads_is_told_and_one_that_does_not_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let state = [NotifyState::Reloading, NotifyState::Custom("X=1")];
        send(path.as_os_str(), &state).unwrap();
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"RELOADING=1\nX=1\n");
        let full = (0..100_000).find_map(|_| send(path.as_os_str(), &state).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
