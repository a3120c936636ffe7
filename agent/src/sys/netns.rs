//! Network namespaces: finding one, working inside one.
//!
//! setns(2) moves one thread. It is always a thread made for the purpose: never one of the runtime's, and never the main
//! thread, from which children inherit. Sockets made inside a namespace stay in it wherever they are used afterwards.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Runs `work` on a thread of its own inside the network namespace `netns` (as [`of_socket`] and [`of_task`] give it, or a
/// pidfd) and gives back what it returns. About 50 µs.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EINVAL` if the descriptor is no network namespace; whatever starting a thread fails with.
pub fn within<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let netns = netns.as_fd();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// The network namespace of `socket`: for an accepted one, its caller's. Needs CAP_NET_ADMIN over that namespace.
///
/// # Errors
/// `EPERM`, `ENOTSOCK`.
pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(namespace_of(socket, libc::SIOCGSKNS)?)
}

/// The network namespace that a thread works in now. Needs CAP_SYS_PTRACE for another user's.
///
/// # Errors
/// `ENOENT` or `ESRCH` if it is gone, `EACCES`.
pub fn of_task(tgid: u32, tid: u32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{tgid}/task/{tid}/ns/net")).map(OwnedFd::from)
}

/// A thread that goes into namespaces and comes back. It has to be a thread of its own: see the module's head.
#[derive(Debug)]
pub struct Traveller {
    home: OwnedFd,
}

impl Traveller {
    /// From the calling thread's namespace, which is where it comes back to.
    ///
    /// # Errors
    /// Where `/proc` isn't there.
    pub fn from_here() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(|home| Self { home: home.into() })
    }

    /// The namespace that it comes home to.
    #[must_use]
    pub fn home(&self) -> BorrowedFd<'_> {
        self.home.as_fd()
    }

    /// Runs `work` on this thread inside `netns`; about 5 µs. `Ok(Err(_))`: it could not get in, as for [`within`].
    ///
    /// # Errors
    /// [`Lost`]. (A panic of `work` has to end the thread as well.)
    pub fn visit<T>(
        &self,
        netns: BorrowedFd<'_>,
        work: impl FnOnce() -> T,
    ) -> Result<io::Result<T>, Lost> {
        if let Err(errno) = setns(netns, CloneFlags::CLONE_NEWNET) {
            return Ok(Err(errno.into()));
        }
        let done = work();
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Lost)?;
        Ok(Ok(done))
    }
}

/// The thread could not come home: it is in somebody else's namespace and has to end.
#[derive(Debug, thiserror::Error)]
#[error("can't come back to our own network namespace: {0}")]
pub struct Lost(#[source] Errno);

/// `NS_GET_USERNS`, `NS_GET_PARENT` and `NS_GET_OWNER_UID` of `include/uapi/linux/nsfs.h`.
const GET_USERNS: libc::Ioctl = 0xb701;
const GET_PARENT: libc::Ioctl = 0xb702;
const GET_OWNER_UID: libc::Ioctl = 0xb704;

/// The user who answers for a network namespace: who made the outermost of the user namespaces that it belongs to (with
/// subordinate ids and nested user namespaces, its own creator can be any of 65,536 numbers). `None`: it belongs to our
/// own user namespace, so an administrator made it.
///
/// # Errors
/// `EPERM` where it belongs to a user namespace that isn't below ours.
pub fn owner(netns: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut at = namespace_of(netns, GET_USERNS)?;
    let mut below = None;
    // The kernel allows 33 levels.
    while let Some(parent) = match namespace_of(at.as_fd(), GET_PARENT) {
        Ok(parent) => Some(parent),
        // Ours has no parent that we may see.
        Err(Errno::EPERM) => None,
        Err(errno) => return Err(errno.into()),
    } {
        below = Some(std::mem::replace(&mut at, parent));
    }
    below.map(|outermost| owner_uid(&outermost)).transpose()
}

fn namespace_of(namespace: BorrowedFd<'_>, call: libc::Ioctl) -> Result<OwnedFd, Errno> {
    // SAFETY: these calls take no argument and give a new descriptor.
    let fd = Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), call) })?;
    // SAFETY: the call above made this descriptor (close-on-exec) for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn owner_uid(user_namespace: &OwnedFd) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the call writes a uid_t, which is live.
    let result = unsafe { libc::ioctl(user_namespace.as_raw_fd(), GET_OWNER_UID, &raw mut uid) };
    Errno::result(result)?;
    Ok(uid)
}

/// Brings `lo` of the calling thread's namespace up, if it is down: without it nothing reaches 127.0.0.1. Needs
/// CAP_NET_ADMIN over the namespace.
///
/// # Errors
/// `EPERM`.
pub fn loopback_up() -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let any = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    // SAFETY: plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo\0") {
        // Signed on x86-64, unsigned on arm64.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    interface(&any, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the call above has filled in this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    if flags & up != 0 {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = flags | up;
    interface(&any, libc::SIOCSIFFLAGS, &mut request)
}

fn interface(any: &OwnedFd, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both calls take an ifreq, which is live and initialised.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), call, std::ptr::from_mut(request)) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockopt::netns_cookie;
    use nix::sched::unshare;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::MetadataExt as _;

    /// A namespace of its own, and a socket in it. Needs root.
    fn other() -> (OwnedFd, TcpListener) {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let own = nix::unistd::gettid().as_raw().cast_unsigned();
            (of_task(std::process::id(), own).unwrap(), listener)
        })
        .join()
        .unwrap()
    }

    fn cookie_here() -> u64 {
        netns_cookie(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).unwrap()
    }

    fn inode(fd: &OwnedFd) -> u64 {
        let file = File::from(fd.try_clone().unwrap());
        file.metadata().unwrap().ino()
    }

    #[test]
    #[ignore = "kernel: cargo xtask test kernel"]
    fn work_is_done_inside_and_the_thread_comes_home() {
        let (netns, listener) = other();
        let theirs = netns_cookie(listener.as_fd()).unwrap();
        let ours = cookie_here();
        assert_ne!(theirs, ours);
        let inside = || {
            loopback_up().unwrap();
            cookie_here()
        };
        assert_eq!(within(&netns, inside).unwrap(), theirs);
        let visited = std::thread::spawn(move || {
            let traveller = Traveller::from_here().unwrap();
            let there = traveller
                .visit(netns.as_fd(), cookie_here)
                .unwrap()
                .unwrap();
            (there, cookie_here())
        });
        assert_eq!(visited.join().unwrap(), (theirs, ours));
        assert_eq!(cookie_here(), ours);
    }

    #[test]
    #[ignore = "kernel: cargo xtask test kernel"]
    fn who_answers_for_a_namespace_is_the_user_outside_of_all_user_namespaces() {
        assert_eq!(owner(other().0.as_fd()).unwrap(), None);
        // As fake root of a user namespace within a user namespace.
        let mut theirs = std::process::Command::new("setpriv")
            .args([
                "--reuid=12345",
                "--clear-groups",
                "unshare",
                "-Ur",
                "unshare",
                "-Urn",
            ])
            .args(["sleep", "30"])
            .spawn()
            .unwrap();
        let here = inode(&of_task(std::process::id(), std::process::id()).unwrap());
        let there = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let netns = of_task(theirs.id(), theirs.id()).unwrap();
            (inode(&netns) != here).then_some(netns)
        });
        let found = owner(there.unwrap().as_fd());
        theirs.kill().unwrap();
        theirs.wait().unwrap();
        assert_eq!(found.unwrap(), Some(12345));
    }

    #[test]
    #[ignore = "kernel: cargo xtask test kernel"]
    fn a_socket_leads_to_its_namespace() {
        let (netns, listener) = other();
        let found = of_socket(listener.as_fd()).unwrap();
        assert_eq!(inode(&found), inode(&netns));
        let port = listener.local_addr().unwrap().port();
        // lo is down there at first.
        let dial = || TcpStream::connect(("127.0.0.1", port)).map(drop);
        assert!(within(&found, dial).unwrap().is_err());
        within(&found, loopback_up).unwrap().unwrap();
        assert!(within(&found, dial).unwrap().is_ok());
        assert!(of_socket(netns.as_fd()).is_err(), "no socket");
    }
}
