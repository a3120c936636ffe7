//! The life of the process: welcome, sandbox, serving, end. Everything that needs a privilege or a new descriptor of a kind
//! that the sandbox forbids happens before [`sandbox::enter`]; every byte of a stranger is read after it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use imds_guard_core::seam::{self, Answer, OUTBOUND_LIMIT, OutboundFiles, WelcomeFd};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet, spawn_local};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::announce::Announcement;
use super::clock::unix_now;
use super::kernel::Maps;
use super::policy::{Policy, PolicyError};
use super::published::{self, Published};
use super::sandbox::{self, SandboxError};
use super::seam::{Broken, Reply, Seam, receive_blocking};
use super::session_token::{SECRET_LEN, Sealer};
use super::{Proxy, accept, connection};
use crate::outbound::trust::TrustError;
use crate::outbound::{AT_ONCE, DESCRIPTORS_EACH};
use crate::sys::memfd;

/// Descriptors that are not connections: maps, listeners, pidfds come on top of what callers hold, and the ways to the clouds'
/// own endpoints.
const RESERVE: usize = 64 + AT_ONCE * DESCRIPTORS_EACH;
/// How long exchanges may go on when the seam is gone.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often it is looked whether any are left.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Why the proxy ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No guard there.
    #[error("can't reach the guard at {0}: {1}; is `imds-guard run` running?")]
    Connect(String, #[source] Errno),
    /// The seam broke, at the latest when the guard ended.
    #[error(transparent)]
    Seam(#[from] Broken),
    /// The first messages were not the welcome and the policy, or a descriptor was missing.
    #[error("the guard's welcome lacks {0}")]
    Welcome(&'static str),
    /// A policy that can't be served by.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Trust roots that are none: the guard looks at them before it sends them.
    #[error("the guard sent trust roots of which {0}")]
    Trust(#[from] TrustError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The runtime, a listener or a socket.
    #[error("can't start serving: {0}")]
    Io(#[from] std::io::Error),
    /// A defect has ended what everybody needs: connections would be taken by nobody, or records written by nobody.
    #[error("a task that all callers need has failed: {0}")]
    Defect(#[source] JoinError),
}

/// Connects to the guard's socket.
///
/// # Errors
/// [`ProxyError::Connect`].
pub fn connect(path: &Path) -> Result<OwnedFd, ProxyError> {
    let attempt = || {
        let socket = nix::sys::socket::socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(socket)
    };
    attempt().map_err(|error| ProxyError::Connect(path.display().to_string(), error))
}

/// Serves on the guard's listeners until the seam breaks, or until told to end.
///
/// # Errors
/// Where it was not told to end; [`Broken::Closed`] is the end of the guard.
pub fn run(seam: OwnedFd) -> Result<(), ProxyError> {
    let welcome = Welcome::receive(&seam)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Tasks on the runtime itself: a `LocalSet` would be a second queue, woken and polled beside the first.
        .build_local(LocalOptions::default())?;
    // Asked before the sandbox, which does not allow the question.
    let descriptors = descriptors();
    let announcement = Announcement::open();
    // At its first use, the generator of random numbers looks for a device (of snapshots of virtual machines) by its path.
    aws_lc_rs::rand::fill(&mut [0]).map_err(|_| std::io::Error::other("no random numbers"))?;
    sandbox::enter()?;
    runtime.block_on(async {
        let (proxy, pushed) = welcome.into_proxy(seam, descriptors)?;
        announcement.ready();
        spawn_local(announcement.alive());
        serve(proxy, pushed).await
    })
}

/// What came with the first two messages.
struct Welcome {
    listeners: Vec<std::net::TcpListener>,
    issuer: Option<std::net::TcpListener>,
    maps: Maps,
    audit: OwnedFd,
    tokens: Sealer,
    outbound: Option<OutboundFiles>,
    policy: Policy,
}

impl Welcome {
    fn receive(seam: &OwnedFd) -> Result<Self, ProxyError> {
        let first = receive_blocking(seam.as_fd())?;
        let Answer::Welcome(named) = first.answer else {
            return Err(ProxyError::Welcome("its first message"));
        };
        let (mut listeners, mut issuer) = (vec![], None);
        let (mut records, mut upstream, mut audit, mut tokens) = (None, None, None, None);
        let mut outbound = None;
        for (what, fd) in named.fds.iter().zip(first.fds) {
            match what {
                WelcomeFd::Listener { .. } => listeners.push(fd.into()),
                WelcomeFd::IssuerListener => issuer = Some(fd.into()),
                WelcomeFd::AttributionMap => records = Some(fd),
                WelcomeFd::UpstreamMap => upstream = Some(fd),
                WelcomeFd::Audit => audit = Some(fd),
                WelcomeFd::Outbound => outbound = Some(outbound_files(fd)?),
                WelcomeFd::SessionKey => tokens = Some(memfd::read(fd, SECRET_LEN)?),
            }
        }
        let second = receive_blocking(seam.as_fd())?;
        let Answer::Policy(pushed) = second.answer else {
            return Err(ProxyError::Welcome("its policy"));
        };
        Ok(Self {
            listeners,
            issuer,
            maps: Maps::new(
                records.ok_or(ProxyError::Welcome("the attribution map"))?,
                upstream.ok_or(ProxyError::Welcome("the upstream map"))?,
            ),
            audit: audit.ok_or(ProxyError::Welcome("the audit descriptor"))?,
            tokens: tokens
                .and_then(|secret| Sealer::new(Zeroizing::new(secret)))
                .ok_or(ProxyError::Welcome("the key of session tokens"))?,
            outbound,
            policy: Policy::receive(&pushed, second.fds, unix_now())?,
        })
    }

    fn into_proxy(
        self,
        seam: OwnedFd,
        descriptors: usize,
    ) -> Result<(Serving, Rc<Seam>), ProxyError> {
        let seam = Seam::new(seam)?;
        let kernel = Rc::new(self.maps);
        let proxy = Proxy::new(
            kernel,
            Rc::clone(&seam),
            self.policy,
            self.tokens,
            self.audit,
            descriptors,
        );
        if let Some(files) = self.outbound {
            proxy.outbound.configure(&files)?;
        }
        let serving = Serving {
            proxy,
            listeners: self
                .listeners
                .into_iter()
                .map(listener)
                .collect::<Result<_, _>>()?,
            issuer: self.issuer.map(listener).transpose()?,
        };
        Ok((serving, seam))
    }
}

/// Ready to serve.
pub(super) struct Serving {
    pub(super) proxy: Rc<Proxy>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) issuer: Option<TcpListener>,
}

fn listener(listener: std::net::TcpListener) -> Result<TcpListener, ProxyError> {
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit it: one call here instead of one per connection.
    setsockopt(&listener, sockopt::TcpNoDelay, &true).map_err(std::io::Error::from)?;
    Ok(TcpListener::from_std(listener)?)
}

pub(super) async fn serve(serving: Serving, seam: Rc<Seam>) -> Result<(), ProxyError> {
    let Serving {
        proxy,
        listeners,
        issuer,
    } = serving;
    let published = Rc::<Published>::default();
    // Those that all callers need.
    let mut tasks = JoinSet::new();
    for listener in listeners {
        tasks.spawn_local(accept_from(Rc::clone(&proxy), listener));
    }
    if let Some(issuer) = issuer {
        tasks.spawn_local(published::serve(Rc::clone(&published), issuer));
    }
    tasks.spawn_local(Rc::clone(&proxy.sink).run());
    let (pushing, mut pushed) = mpsc::unbounded_channel();
    let broken = spawn_local(async move { seam.run(pushing).await });
    let mut terminate = signal(SignalKind::terminate())?;
    let taken = loop {
        let push = tokio::select! {
            _ = terminate.recv() => break Ok(End::Told),
            Some(ended) = tasks.join_next() => match sound(ended) {
                // Of a listener whose namespace is gone.
                Ok(()) => continue,
                Err(defect) => break Err(defect),
            },
            push = pushed.recv() => push,
        };
        let Some(push) = push else {
            break Ok(End::Broken);
        };
        if let Err(error) = take(&proxy, &published, &mut tasks, push) {
            break Err(error);
        }
    };
    drop(tasks);
    last_answers(&proxy).await;
    proxy.sink.flush();
    match taken? {
        End::Told => Ok(()),
        End::Broken => Err(broken.await.map_or(Broken::Closed, |broken| broken).into()),
    }
}

/// A panic of one of those is the end of the process: whoever starts it again serves all callers, where it would go on with some
/// of them waiting for ever. (That of a connection ends the connection.)
fn sound(ended: Result<(), JoinError>) -> Result<(), ProxyError> {
    ended.map_err(ProxyError::Defect)
}

/// Why serving ends.
enum End {
    /// The seam broke.
    Broken,
    /// SIGTERM.
    Told,
}

/// Waits until nobody is being answered; whoever waits to be accepted waits for the next proxy. Whoever has been accepted just
/// now gets a moment to ask.
async fn last_answers(proxy: &Proxy) {
    let latest = Instant::now() + LAST_ANSWERS;
    let mut idle = 0;
    while idle < 2 && Instant::now() < latest {
        tokio::time::sleep(LAST_LOOK).await;
        if proxy.seats.are_free() {
            return;
        }
        idle = if proxy.sink.is_idle() { idle + 1 } else { 0 };
    }
}

async fn accept_from(proxy: Rc<Proxy>, listener: TcpListener) {
    while let Some(stream) = accept::next(&listener).await {
        spawn_local(connection::serve(Rc::clone(&proxy), stream));
    }
}

async fn accept_from_guest(proxy: Rc<Proxy>, listener: TcpListener, guest: Rc<seam::Guest>) {
    while let Some(stream) = accept::next(&listener).await {
        let guest = Rc::clone(&guest);
        spawn_local(connection::serve_guest(Rc::clone(&proxy), stream, guest));
    }
}

/// Takes what the guard pushed. A policy that we can't read ends the process: we must not go on by an old one.
fn take(
    proxy: &Rc<Proxy>,
    published: &Published,
    tasks: &mut JoinSet<()>,
    push: Reply,
) -> Result<(), ProxyError> {
    match push.answer {
        Answer::Listeners(_) => {
            for fd in push.fds {
                tasks.spawn_local(accept_from(Rc::clone(proxy), listener(fd.into())?));
            }
        }
        Answer::Guests(guests) => {
            let mut fds = push.fds.into_iter();
            for guest in guests.guests.into_iter().map(Rc::new) {
                for fd in fds.by_ref().take(usize::from(guest.listeners)) {
                    let listener = listener(fd.into())?;
                    tasks.spawn_local(accept_from_guest(
                        Rc::clone(proxy),
                        listener,
                        Rc::clone(&guest),
                    ));
                }
            }
        }
        Answer::Policy(pushed) => {
            proxy.replace_policy(Policy::receive(&pushed, push.fds, unix_now())?);
        }
        Answer::Issuer(issuer) => published.publish(&issuer),
        Answer::Revoke { workload } => proxy.revoke(workload.as_ref()),
        Answer::Outbound => {
            let fd = push.fds.into_iter().next();
            let fd = fd.ok_or(ProxyError::Welcome("the files of the way out"))?;
            proxy.outbound.configure(&outbound_files(fd)?)?;
        }
        Answer::Audit => {
            let to = push.fds.into_iter().next();
            proxy
                .sink
                .redirect(to.ok_or(ProxyError::Welcome("the audit descriptor"))?);
        }
        _ => return Err(ProxyError::Welcome("its end: it came twice")),
    }
    Ok(())
}

fn outbound_files(fd: OwnedFd) -> Result<OutboundFiles, ProxyError> {
    let files = OutboundFiles::decode(&memfd::read(fd, OUTBOUND_LIMIT)?);
    Ok(files.map_err(Broken::from)?)
}

/// As many descriptors as the hard limit allows. Where it can't be raised, there are fewer seats.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}

/// Connections for which there are descriptors: each may need one for itself and one for a new process or upstream.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    // The guard opens listeners in network namespaces for a quarter of that.
    usize::try_from(limit - limit / 4)
        .unwrap_or(usize::MAX)
        .saturating_sub(RESERVE)
        / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_all_callers_need_ends_the_process_when_it_panics() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { panic!("defect") });
        let ended = tasks.join_next().await.unwrap();
        assert!(matches!(sound(ended), Err(ProxyError::Defect(_))));
        tasks.spawn(async {});
        assert!(sound(tasks.join_next().await.unwrap()).is_ok());
    }
}
