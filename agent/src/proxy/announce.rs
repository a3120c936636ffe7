//! Tells the service manager, where there is one, that this proxy serves. The sandbox lets no socket of that family be made,
//! so the way to it is opened before, and the word is sent once the sandbox is closed and the listeners are ours: a unit that
//! is active answers. After that it is told that we live, where it asks for that.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::notify::connected;

/// The way to the service manager, or that there is none.
pub(crate) struct Announcement {
    manager: Option<UnixDatagram>,
    /// How long it waits for a word that we live; `None`: it doesn't ask for any.
    watchdog: Option<Duration>,
}

impl Announcement {
    /// To whom `NOTIFY_SOCKET` names. One that can't be reached is told and no obstacle: the manager's own deadline judges that.
    pub(crate) fn open() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        Self {
            manager: name.and_then(|name| told(connected(&name))),
            watchdog: sd_notify::watchdog_enabled(),
        }
    }

    /// Says it.
    pub(crate) fn ready(&self) {
        self.say(b"READY=1\n");
    }

    /// Says that we live, from the loop that serves, for as long as that does.
    pub(crate) async fn alive(self) {
        let Some(limit) = self.watchdog else { return };
        let mut every = tokio::time::interval(limit / 3);
        loop {
            every.tick().await;
            self.say(b"WATCHDOG=1\n");
        }
    }

    fn say(&self, word: &[u8]) {
        if let Some(socket) = &self.manager {
            told(socket.send(word));
        }
    }
}

fn told<T>(result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(%error, "the service manager can't be told"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    fn heard(socket: &UnixDatagram, name: &OsStr) -> Vec<u8> {
        Announcement {
            manager: Some(connected(name).unwrap()),
            watchdog: None,
        }
        .ready();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_manager_is_told_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        assert_eq!(heard(&socket, path.as_os_str()), b"READY=1\n");
        let name = format!("imds-guard-announce-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        assert_eq!(heard(&socket, format!("@{name}").as_ref()), b"READY=1\n");
    }

    #[test]
    fn a_manager_that_is_not_there_is_no_obstacle() {
        assert!(told(connected("/nowhere/notify".as_ref())).is_none());
        Announcement {
            manager: None,
            watchdog: None,
        }
        .ready();
    }
}
