//! The one loop: signals, asks, the proxy's life, notes of the kernel. Everything that it holds belongs to one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::seam::{ASK_LIMIT, Answer, Welcome, WelcomeFd};
use imds_guard_ebpf::ObserveEvent;
use nix::fcntl::Flock;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, interval, sleep_until, timeout};

use super::answers::Answers;
use super::child::{Running, Spawner};
use super::control::{Asking, Control};
use super::notify::notify;
use super::outbound::Outbound;
use super::policy::Policy;
use super::seam::{Door, Seam};
use super::session_key::SessionKey;
use super::spaces::Spaces;
use super::store::{Returned, Store};
use super::{FAREWELL, GuardError, Options, start};
use crate::attest::Attestor;
use crate::intercept::bypasses::Live;
use crate::intercept::guests::{self, Guests};
use crate::intercept::{self, Change, Events, Interceptor, Listeners, Namespaces, Older, Watch};
use crate::notify::alive;
use crate::sys::memory;
use crate::sys::scm::Received;
use crate::sys::sockopt;

mod reload;
mod revoke;
mod status;
mod trial;

use trial::Trials;

/// Interfaces come with several notes each, and containers come with interfaces.
const SETTLED: Duration = Duration::from_millis(100);

/// How often processes that have exited are forgotten.
const SWEEP: Duration = Duration::from_secs(10);

/// How often it is seen to that what is in force still is. What somebody has undone is to be noticed within a second.
const PULSE: Duration = Duration::from_millis(400);

/// The guard, in force.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) options: Options,
    pub(super) answers: Answers,
    pub(super) listeners: Arc<Listeners>,
    pub(super) spaces: Spaces,
    /// What ends connections of before.
    pub(super) older: Option<Older>,
    issuer_listener: Option<OwnedFd>,
    session_key: SessionKey,
    outbound: Outbound,
    events: Events,
    watch: Option<Watch>,
    /// When uplinks are looked for again.
    uplinks_at: Option<Instant>,
    trials: Trials,
    pub(super) told: Told,
    control: Control,
    spawner: Option<Spawner>,
    door: Option<Door>,
    proxy: Option<Running>,
    again_at: Option<Instant>,
    /// When a proxy whose seam we have closed has to have ended.
    overdue_at: Option<Instant>,
    pub(super) seam: Option<Seam>,
    signals: Signals,
    sweep: Interval,
    /// When everything was in force.
    since: jiff::Timestamp,
    pulse: Interval,
    watchdog: Option<Interval>,
    _lock: Flock<std::fs::File>,
}

/// What has been told of, and is told again by `status`, or not at all.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Connections by a lifeline, of which the kernel told since the start.
    lifelines_used: u64,
    /// Why the last reload changed nothing.
    refused: Option<String>,
    /// The bypasses that were there at the last look.
    pub(super) bypasses: Vec<Live>,
}

#[derive(Debug)]
struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What happens next.
enum Event {
    Reload,
    Asked(std::io::Result<Asking>),
    Reopen,
    End(&'static str),
    Message(std::io::Result<Received>),
    Knock(std::io::Result<Seam>),
    ProxyEnded,
    StartProxy,
    Overdue,
    Note(std::io::Result<ObserveEvent>),
    Space(Change),
    Guests(std::io::Result<guests::Change>),
    LinksChanged,
    Uplinks,
    Sweep,
    Pulse,
    Watchdog,
}

impl Guard {
    /// Everything that can be refused is looked at before the kernel is touched.
    pub(super) fn start(options: Options, returned: Returned) -> Result<Self, GuardError> {
        let (policy, trials) = Trials::begin(&options)?;
        let settings = &policy.settings;
        let (uid, gid) = start::proxy_user(options.proxy_user.as_deref(), settings)?;
        let empty = start::run_directory(&options.run_dir)?;
        let lock = start::lock(&options.run_dir)?;
        let control = Control::open(&options.run_dir)?;
        let session_key = SessionKey::open(&options.run_dir)?;
        let outbound = Outbound::read(&policy)?;
        let issuer = start::issuer(settings, &options.state_dir)?;
        let listen = settings.issuer.as_ref().and_then(|issuer| issuer.listen);
        let issuer_listener = start::issuer_listener(listen, &options.pin_dir, returned.issuer)?;
        let audit = start::audit(options.audit.as_deref(), settings)?;
        let attestor = attestor(&policy)?;
        let spawner = options.spawn.then(|| Spawner::new(uid, gid, &empty));
        let door = (!options.spawn)
            .then(|| Door::open(&options.run_dir, uid, gid))
            .transpose()?;
        let signals = Signals::new()?;
        let guests = Guests::new(host_netns().unwrap_or_default()).map_err(GuardError::Runtime)?;
        let mut interceptor = intercepted(&options, &policy, returned.listeners)?;
        start::tell(interceptor.layers(), &options, listen);
        let (listeners, namespaces, events) = undone_if_fresh(&mut interceptor, &options)?;
        let mut guard = Self {
            older: start::older(&interceptor),
            answers: Answers {
                interceptor,
                attestor,
                policy,
                issuer,
                audit,
                guests,
            },
            listeners,
            spaces: Spaces::new(namespaces),
            issuer_listener,
            session_key,
            outbound,
            events,
            watch: start::watch(),
            uplinks_at: None,
            trials,
            told: Told::default(),
            control,
            spawner,
            door,
            proxy: None,
            again_at: None,
            overdue_at: None,
            seam: None,
            signals,
            sweep: interval(SWEEP),
            since: jiff::Timestamp::now(),
            pulse: interval(PULSE),
            watchdog: sd_notify::watchdog_enabled().map(|limit| interval(limit / 4)),
            _lock: lock,
            options,
        };
        guard.update_guests();
        guard.start_proxy();
        Ok(guard)
    }

    /// Serves until told to end.
    ///
    /// # Errors
    /// Where the kernel's notes can't be read any more.
    pub(super) async fn serve(&mut self, mut store: Store) -> Result<(), GuardError> {
        self.tell_of_start();
        self.ready();
        self.keep_listeners(&mut store);
        self.end_older(&self.listeners);
        // The kernel's types took some megabytes to read.
        memory::give_back();
        let mut buffer = [0; ASK_LIMIT];
        loop {
            match self.next(&mut buffer).await {
                Event::Reload => self.reload(),
                Event::Asked(asking) => self.asked(asking),
                Event::Reopen => self.reopen_audit(),
                Event::End(signal) => {
                    self.end(signal).await;
                    return Ok(());
                }
                Event::Message(received) => self.message(received, &buffer),
                Event::Knock(seam) => self.knock(seam),
                Event::ProxyEnded => self.proxy_ended(),
                Event::StartProxy => self.start_proxy(),
                Event::Overdue => self.end_overdue(),
                Event::Note(note) => self.note(note),
                Event::Space(change) => {
                    store.changed(&change);
                    if let Change::Opened(listeners) = &change {
                        self.end_older(listeners);
                    }
                    self.spaces.changed(change, self.seam.as_mut());
                }
                Event::Guests(change) => self.guests_changed(change),
                Event::LinksChanged => {
                    self.uplinks_at.get_or_insert(Instant::now() + SETTLED);
                }
                Event::Uplinks => self.uplinks(),
                Event::Sweep => self.sweep(),
                Event::Pulse => {
                    store.flush();
                    self.look_at_outbound();
                    self.look_at_trial();
                    self.look_at_bypasses();
                    self.look_for_drift();
                }
                Event::Watchdog => alive(),
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8; ASK_LIMIT]) -> Event {
        tokio::select! {
            biased;
            _ = self.signals.terminate.recv() => Event::End("SIGTERM"),
            _ = self.signals.interrupt.recv() => Event::End("SIGINT"),
            // Before what may come without end.
            () = tick(&mut self.watchdog) => Event::Watchdog,
            _ = self.signals.hangup.recv() => Event::Reload,
            asking = self.control.accept() => Event::Asked(asking),
            _ = self.signals.reopen.recv() => Event::Reopen,
            () = ended(self.proxy.as_ref()) => Event::ProxyEnded,
            () = at(self.again_at) => Event::StartProxy,
            () = at(self.overdue_at) => Event::Overdue,
            seam = knocks(self.door.as_ref()) => Event::Knock(seam),
            change = self.spaces.next() => Event::Space(change),
            received = asks(self.seam.as_mut(), buffer) => Event::Message(received),
            note = self.events.next() => Event::Note(note),
            change = self.answers.guests.changed() => Event::Guests(change),
            () = links(self.watch.as_ref()) => Event::LinksChanged,
            () = at(self.uplinks_at) => Event::Uplinks,
            _ = self.sweep.tick() => Event::Sweep,
            _ = self.pulse.tick() => Event::Pulse,
        }
    }

    fn sweep(&mut self) {
        self.answers.attestor.sweep();
        self.answers.interceptor.refresh_raw_sockets();
        self.answers.interceptor.refresh_lifelines();
        if let Err(error) = self.answers.interceptor.refresh_filters() {
            tracing::warn!("{error}");
        }
    }

    fn message(&mut self, received: std::io::Result<Received>, buffer: &[u8; ASK_LIMIT]) {
        let done = match received {
            Ok(Received { len, fds, .. }) => {
                let replied = self.reply(&buffer[..len], &fds);
                let closed = self.seam.as_ref().map_or(Ok(()), |seam| seam.discard(fds));
                replied.and(closed.map_err(|error| error.to_string()))
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = done {
            self.close_seam(&why);
        }
    }

    fn reply(&mut self, message: &[u8], fds: &[OwnedFd]) -> Result<(), String> {
        let replies = self.answers.answer(message, fds);
        for (answer, fds) in replies.map_err(|error| error.to_string())? {
            self.post(&answer, fds)?;
        }
        Ok(())
    }

    pub(super) fn post(&mut self, answer: &Answer, fds: Vec<OwnedFd>) -> Result<(), String> {
        let seam = self.seam.as_mut().ok_or("there is no proxy")?;
        seam.post(answer, fds).map_err(|error| error.to_string())
    }

    /// A proxy that said something wrong, or nothing more, is let go; its listeners stay here, so callers wait and are not
    /// lost. One of our own that doesn't end by itself then is ended: nobody else could be started, and it may be going on
    /// by an old policy.
    pub(super) fn close_seam(&mut self, why: &str) {
        tracing::warn!("the proxy's connection ends: {why}");
        self.seam = None;
        self.overdue_at = self.proxy.is_some().then(|| Instant::now() + FAREWELL);
    }

    fn end_overdue(&mut self) {
        self.overdue_at = None;
        if let Some(proxy) = &mut self.proxy {
            tracing::warn!(pid = proxy.pid(), "the proxy does not end: killed");
            proxy.kill();
        }
    }

    fn knock(&mut self, seam: std::io::Result<Seam>) {
        match seam {
            Ok(seam) => {
                if self.seam.is_some() {
                    tracing::info!("a newer proxy takes over");
                }
                self.welcome(seam);
            }
            Err(error) => tracing::warn!(%error, "a proxy knocked in vain"),
        }
    }

    fn welcome(&mut self, seam: Seam) {
        self.seam = Some(seam);
        if let Err(why) = self.say_welcome() {
            self.close_seam(&why);
        }
    }

    fn say_welcome(&mut self) -> Result<(), String> {
        let (named, fds) = self.belongings().map_err(|error| error.to_string())?;
        self.post(&Answer::Welcome(Welcome { fds: named }), fds)?;
        self.push_policy()?;
        self.spaces.offer_all(self.seam.as_mut());
        self.push_guests(None);
        Ok(())
    }

    fn belongings(&self) -> std::io::Result<(Vec<WelcomeFd>, Vec<OwnedFd>)> {
        let netns_cookie = self.listeners.netns_cookie;
        let interceptor = &self.answers.interceptor;
        let listener = WelcomeFd::Listener { netns_cookie };
        let mut all = vec![
            (listener, self.listeners.v4.as_fd()),
            (
                WelcomeFd::AttributionMap,
                interceptor.attribution_fd_readonly(),
            ),
            (WelcomeFd::UpstreamMap, interceptor.upstream_fd()),
            (WelcomeFd::Audit, self.answers.audit.fd()),
        ];
        all.extend(self.listeners.v6.iter().map(|v6| (listener, v6.as_fd())));
        let issuer = self.issuer_listener.iter();
        all.extend(issuer.map(|fd| (WelcomeFd::IssuerListener, fd.as_fd())));
        let (named, fds): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned());
        let (mut named, mut fds) = (named, fds.collect::<Result<Vec<_>, _>>()?);
        named.push(WelcomeFd::SessionKey);
        fds.push(self.session_key.file()?);
        if let Some(file) = self.outbound.file()? {
            named.push(WelcomeFd::Outbound);
            fds.push(file);
        }
        Ok((named, fds))
    }

    fn push_policy(&mut self) -> Result<(), String> {
        let (policy, file) = self
            .answers
            .policy
            .push()
            .map_err(|error| error.to_string())?;
        self.post(&policy, vec![file])?;
        match self.answers.documents() {
            Some(documents) => self.post(&documents, vec![]),
            None => Ok(()),
        }
    }

    /// DHCP clients write resolv.conf anew, and packages the trust roots.
    fn look_at_outbound(&mut self) {
        if self.outbound.look()
            && self.seam.is_some()
            && let Err(why) = self.push_outbound()
        {
            self.close_seam(&why);
        }
    }

    fn push_outbound(&mut self) -> Result<(), String> {
        match self.outbound.file().map_err(|error| error.to_string())? {
            Some(file) => self.post(&Answer::Outbound, vec![file]),
            None => Ok(()),
        }
    }

    fn start_proxy(&mut self) {
        self.again_at = None;
        let Some(spawner) = &mut self.spawner else {
            return;
        };
        match spawner.start() {
            Ok((running, seam)) => {
                tracing::info!(pid = running.pid(), "proxy started");
                self.proxy = Some(running);
                self.welcome(seam);
            }
            Err(error) => {
                tracing::error!(%error, "the proxy can't be started; trying again");
                self.again_at = Some(spawner.again_at(None));
            }
        }
    }

    fn proxy_ended(&mut self) {
        self.seam = None;
        self.overdue_at = None;
        let Some(mut running) = self.proxy.take() else {
            return;
        };
        let how = running.reap().map(|status| status.to_string());
        let how = how.unwrap_or_else(|error| error.to_string());
        tracing::warn!(
            pid = running.pid(),
            "the proxy has ended ({how}); starting another"
        );
        if let Some(spawner) = &mut self.spawner {
            self.again_at = Some(spawner.again_at(Some(running.since())));
        }
    }

    /// An interface or a route has changed: an uplink may be there, or another one by that name.
    fn uplinks(&mut self) {
        self.uplinks_at = None;
        // What somebody has undone is not to be put back in silence.
        self.look_for_drift();
        let before = self.answers.interceptor.layers().to_vec();
        self.answers.interceptor.refresh_uplinks();
        let now = self.answers.interceptor.layers();
        start::tell_changes(&before, now, &self.options.run_dir);
    }

    fn note(&mut self, note: std::io::Result<ObserveEvent>) {
        let lifeline = note.as_ref().is_ok_and(is_lifeline);
        let written = note.and_then(|note| self.answers.audit.observed(&note));
        if lifeline {
            tracing::error!(
                "a lifeline was used while no guard lived: the audit file says by whom"
            );
            self.told.lifelines_used += 1;
            self.leave_note();
        }
        if let Err(error) = written {
            tracing::warn!(%error, "a note of the kernel is lost");
        }
    }

    fn ready(&mut self) {
        let policy = &self.answers.policy;
        tracing::info!(
            port = self.options.port,
            epoch = policy.epoch,
            digest = %policy.digest,
            endpoints = policy.endpoints().len(),
            "ready: guarding the metadata addresses"
        );
        self.tell_status(None);
    }

    /// Only now: while the manager waits for our word it must not be that it reads something else.
    fn keep_listeners(&self, store: &mut Store) {
        for refused in self.answers.interceptor.refused() {
            store.forget(refused);
        }
        store.keep(&self.listeners);
        let Some(issuer) = &self.issuer_listener else {
            return;
        };
        match self.answers.interceptor.mark_issuer(issuer.as_fd()) {
            Ok(()) => store.keep_issuer(issuer),
            Err(error) => {
                tracing::warn!(%error, "the issuer's listener can't be marked, so it isn't kept over a restart")
            }
        }
    }

    async fn end(&mut self, signal: &str) {
        notify(&[NotifyState::Stopping]);
        tracing::info!(
            "{signal}: ending. The kernel programs stay pinned in {}: guarded addresses refuse connections until the next start; `imds-guard teardown` removes them",
            self.options.pin_dir.display()
        );
        // The end of the seam is what tells the proxy to finish.
        self.seam = None;
        if let Some(mut proxy) = self.proxy.take() {
            if timeout(FAREWELL, proxy.ended()).await.is_err() {
                tracing::warn!("the proxy did not end in time");
            }
            proxy.kill();
        }
    }
}

impl Signals {
    fn new() -> Result<Self, GuardError> {
        let on = |kind| signal(kind).map_err(GuardError::Runtime);
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            reopen: on(SignalKind::user_defined1())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

fn is_lifeline(note: &ObserveEvent) -> bool {
    note.why == intercept::Counter::Lifeline as u32
}

fn attestor(policy: &Policy) -> Result<Attestor, GuardError> {
    let mut attestor = Attestor::new(host_netns())?;
    attestor.wants_hash(policy.wants_hash);
    Ok(attestor)
}

fn intercepted(
    options: &Options,
    policy: &Policy,
    kept: Vec<intercept::Kept>,
) -> Result<Interceptor, GuardError> {
    let issuer = policy.settings.issuer.as_ref();
    let settings = intercept::Settings {
        cgroup_root: options.cgroup_root.clone(),
        pin_dir: options.pin_dir.clone(),
        port: options.port,
        endpoints: policy.endpoints(),
        issuer: issuer.and_then(|issuer| issuer.listen),
        hardening: policy.hardening(),
    };
    let mut interceptor = Interceptor::start_again(&settings, kept)?;
    interceptor.set_lifelines(policy.lifelines());
    Ok(interceptor)
}

/// What is left to do once the kernel is in force. Where it fails and nothing was in force before, nothing stays in force.
fn undone_if_fresh(
    interceptor: &mut Interceptor,
    options: &Options,
) -> Result<(Arc<Listeners>, Namespaces, Events), GuardError> {
    let listeners = interceptor.open_listeners();
    let namespaces = interceptor.namespaces();
    let events = interceptor.events();
    match (listeners, namespaces, events) {
        (Some(listeners), Some(namespaces), Ok(events)) => Ok((listeners, namespaces, events)),
        (_, _, events) => {
            if interceptor.is_fresh() {
                intercept::teardown(&options.pin_dir)?;
            }
            let error = events.err();
            Err(GuardError::Runtime(error.unwrap_or_else(|| {
                std::io::Error::other("the listeners are taken")
            })))
        }
    }
}

/// Cookie of our own network namespace: the host's.
fn host_netns() -> Option<u64> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    sockopt::netns_cookie(socket.as_fd()).ok()
}

async fn links(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn ended(proxy: Option<&Running>) {
    match proxy {
        // A pidfd that can't be polled: treat as ended, the reaping will wait.
        Some(proxy) => drop(proxy.ended().await),
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn knocks(door: Option<&Door>) -> std::io::Result<Seam> {
    match door {
        Some(door) => door.accept().await,
        None => std::future::pending().await,
    }
}

async fn asks(seam: Option<&mut Seam>, buffer: &mut [u8; ASK_LIMIT]) -> std::io::Result<Received> {
    match seam {
        Some(seam) => seam.next(buffer).await,
        None => std::future::pending().await,
    }
}
