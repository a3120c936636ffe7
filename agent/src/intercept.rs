//! Interception in the kernel: loads, attaches and pins the programs, opens and marks listeners, and is the only way to
//! the kernel's maps. Each network namespace needs listeners of its own: [`namespaces`].
//!
//! The walk of a start: [`environment`] (is this host fit?), [`listeners`] (is the port free?), [`load`] (does the
//! kernel take the programs?), endpoint table, marks, and last [`pins`] (in force). Whatever fails before the end
//! leaves nothing behind.
//!
//! Must never: detach at exit (losing the agent loses access, never protection); give out a writable descriptor of the
//! attribution map.

pub mod bypasses;
pub mod cost;
mod drift;
mod early;
mod endpoints;
pub mod environment;
mod error;
mod events;
mod filters;
pub(crate) mod guests;
mod kept;
pub mod layer;
mod lease;
pub mod lifelines;
mod listeners;
mod load;
pub mod namespaces;
pub mod nft;
mod offsets;
mod older;
pub mod pinned;
mod pins;
mod raw_sockets;
mod uplinks;

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, RingBuf},
};
pub use bypasses::Bypasses;
pub use drift::{Change as DriftChange, Finding};
pub use early::{Early, early};
pub use endpoints::GuardedEndpoint;
pub(crate) use endpoints::endpoint_id;
pub use error::InterceptError;
pub use events::Events;
pub use guests::Noted as NotedGuests;
pub use imds_guard_ebpf::{
    CallerRecord, Counter, Endpoint, EndpointKey, Mode, ObserveEvent, OtherTraffic,
};
pub use kept::Kept;
use layer::{LAYERS, Layer, Standing};
pub use lease::LEASE;
pub use listeners::{Listeners, for_issuer};
pub use load::{Trial, embedded};
pub use namespaces::{Change, Namespaces};
pub use older::Older;
pub use uplinks::Watch;

use crate::sys::{bpf, sockopt};

/// Where pins go unless configured otherwise.
pub const DEFAULT_PIN_DIRECTORY: &str = "/sys/fs/bpf/imds-guard";

/// How to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cgroup v2 directory to attach to; `None`: the root of the mounted hierarchy.
    pub cgroup_root: Option<PathBuf>,
    /// A directory on bpffs; made with mode 0700.
    pub pin_dir: PathBuf,
    /// The listeners' port, outside of the ephemeral range.
    pub port: u16,
    /// What is guarded from the first moment.
    pub endpoints: Vec<GuardedEndpoint>,
    /// Where the embedded issuer listens: nobody else can take that port.
    pub issuer: Option<SocketAddr>,
    /// What is configured of the layers behind the socket layer.
    pub hardening: Hardening,
}

/// What is configured of the layers behind the socket layer.
#[derive(Debug, Clone, Default)]
pub struct Hardening {
    /// Interfaces that lead to a metadata service, beside those that are found.
    pub uplinks: Vec<Arc<str>>,
    /// Whose processes alone may open raw sockets in the host's network namespace, by cgroup; `None`: everybody's.
    pub raw_sockets_for: Option<Vec<Arc<str>>>,
}

/// Interception in force. Dropping it closes descriptors and detaches nothing.
pub struct Interceptor {
    port: u16,
    fresh: bool,
    listeners: Option<Arc<Listeners>>,
    namespaces: Option<Namespaces>,
    switch: Option<namespaces::Switch>,
    records: OwnedFd,
    records_readonly: OwnedFd,
    upstream: OwnedFd,
    listener_marks: OwnedFd,
    tables: endpoints::Tables,
    guarded: Vec<GuardedEndpoint>,
    uplinks: Option<uplinks::Uplinks>,
    raw_sockets: Option<raw_sockets::Allowed>,
    layers: Vec<Standing>,
    counters: PerCpuArray<MapData, u64>,
    events: Option<RingBuf<MapData>>,
    filters: filters::SharedFilters,
    lease: Option<lease::Lease>,
    drift: Option<drift::Drift>,
    bypasses: Bypasses,
    lifelines: Option<lifelines::Lifelines>,
    _held: Option<pins::Held>,
    refused: Vec<String>,
}

impl fmt::Debug for Interceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptor")
            .field("port", &self.port)
            .field("fresh", &self.fresh)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Interceptor {
    /// Puts interception in force, with listeners in this thread's network namespace, or takes over from a former run.
    ///
    /// # Errors
    /// [`InterceptError`], each with its remedy. Nothing that this start made is left behind; what a former run has in
    /// force stays in force.
    pub fn start(settings: &Settings) -> Result<Self, InterceptError> {
        Self::start_with(settings, embedded(), vec![])
    }

    /// As [`start`](Self::start), with what the service manager kept of a former run.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_again(settings: &Settings, kept: Vec<Kept>) -> Result<Self, InterceptError> {
        Self::start_with(settings, embedded(), kept)
    }

    fn start_with(
        settings: &Settings,
        object: &[u8],
        kept: Vec<Kept>,
    ) -> Result<Self, InterceptError> {
        if object.is_empty() {
            return Err(InterceptError::NoPrograms);
        }
        environment::kernels_clock()?;
        let root = environment::attach_root(settings.cgroup_root.as_deref())?;
        let marks = pins::listener_marks(&settings.pin_dir)?;
        let mut kept = kept::sorted(kept, settings.port, &marks);
        let home = namespaces::cookie_here()?;
        let home = kept.spaces.remove(&home).unwrap_or_default();
        let listeners = Arc::new(Listeners::open(settings.port, &marks, home)?);
        let mut pins = pins::Pins::open(&settings.pin_dir)?;
        let maps = pins.maps();
        let parameters = load::Parameters {
            port: settings.port,
            issuer: endpoints::issuer(settings.issuer, listeners.netns_cookie),
            passage: uplinks::passage(),
        };
        let mut ebpf = load::load(object, &parameters, Some(&maps))?;
        let mut interceptor = Self::with_maps(&mut ebpf, &maps, settings.port, pins.is_fresh())?;
        interceptor.set_endpoints(&settings.endpoints)?;
        listeners.mark(&interceptor.listener_marks)?;
        // Before anything is steered, so that nobody who has been served is refused meanwhile.
        let means = namespaces::Means {
            port: settings.port,
            root: root.clone(),
            marks: clone(&interceptor.listener_marks)?,
            known: take(&mut ebpf, imds_guard_ebpf::map::NAMESPACES)?,
            arrivals: take(&mut ebpf, imds_guard_ebpf::map::ARRIVALS)?,
            kept: kept.spaces,
        };
        let serve = endpoints::steers(&settings.endpoints);
        let (namespaces, switch) = Namespaces::start(means, Arc::clone(&listeners), serve)?;
        interceptor.namespaces = Some(namespaces);
        interceptor.switch = Some(switch);
        interceptor.listeners = Some(listeners);
        interceptor.refused = told(kept.refused);
        let lease = take(&mut ebpf, imds_guard_ebpf::map::LEASE)?;
        interceptor.lease = Some(lease::Lease::begin(lease)?);
        pins.attach(&mut ebpf, &root)?;
        let lifelines = take(&mut ebpf, imds_guard_ebpf::map::LIFELINES)?;
        interceptor.lifelines = Some(lifelines::Lifelines::new(lifelines, &root));
        early::is_over(take(&mut ebpf, imds_guard_ebpf::map::EARLY)?);
        interceptor.expect_filter(&ebpf)?;
        interceptor.layers = optional(&mut ebpf, &mut pins, &root);
        interceptor.refresh_filters()?;
        let allowed = settings.hardening.raw_sockets_for.clone();
        let (standing, allowed) = raw_sockets::stand(&mut ebpf, &mut pins, allowed);
        interceptor.stands(layer::RAW_SOCKETS, standing);
        interceptor.raw_sockets = allowed;
        let links = pins.links();
        interceptor.drift = Some(drift::Drift::of(&ebpf, &pins, &root)?);
        interceptor._held = Some(pins.commit()?);
        let program = uplink_program(&mut ebpf).map_err(|error| error.to_string());
        let configured = settings.hardening.uplinks.clone();
        let uplinks = uplinks::Uplinks::new(configured, links, program, parameters.passage);
        interceptor.uplinks = Some(uplinks);
        interceptor.refresh_uplinks();
        Ok(interceptor)
    }

    /// Looks for uplinks again, and puts both of their layers in force on those that are there now. For the beginning, and
    /// whenever [`Watch`] tells of a change.
    pub fn refresh_uplinks(&mut self) {
        let Some(uplinks) = &mut self.uplinks else {
            return;
        };
        let outcome = uplinks.refresh(&self.guarded);
        self.stands(layer::FRAMES, outcome.tcx);
        self.stands(layer::NETFILTER, outcome.netfilter);
    }

    /// Looks whether all of it is still in force, and puts back what is not. Cheap enough for several times a second.
    pub fn look_for_drift(&mut self) -> Vec<Finding> {
        let mut found = self
            .drift
            .as_mut()
            .map_or_else(Vec::new, drift::Drift::look);
        if endpoints::differ(&self.tables, &self.guarded) {
            let done = endpoints::write(&mut self.tables, &self.guarded, self.port);
            found.push(Finding {
                what: imds_guard_ebpf::map::ENDPOINTS.to_owned(),
                change: DriftChange::Endpoints,
                failed: done.err().map(|error| error.to_string()),
            });
        }
        if self
            .uplinks
            .as_ref()
            .is_some_and(uplinks::Uplinks::lost_a_link)
        {
            self.refresh_uplinks();
            found.push(Finding {
                what: layer::FRAMES.to_owned(),
                change: DriftChange::Detached,
                failed: self.absent(layer::FRAMES),
            });
        }
        found
    }

    /// Looks whether netfilter's rules for uplinks are as they were, and puts them back. For whenever rules have changed.
    pub fn look_at_rules(&mut self) -> Option<Finding> {
        self.uplinks.as_mut()?.lost_its_rules().then(|| {
            self.refresh_uplinks();
            Finding {
                what: layer::NETFILTER.to_owned(),
                change: DriftChange::Rules,
                failed: self.absent(layer::NETFILTER),
            }
        })
    }

    fn absent(&self, name: &str) -> Option<String> {
        let mut standing = self.layers.iter().filter(|s| s.layer == name);
        standing.next()?.absent.clone()
    }

    /// Looks up again which cgroups may have raw sockets: a unit that starts anew has a new one.
    pub fn refresh_raw_sockets(&mut self) {
        if let Some(allowed) = &mut self.raw_sockets {
            allowed.refresh();
        }
    }

    /// Who reaches which endpoint while no guard lives.
    pub fn set_lifelines(&mut self, wanted: Vec<lifelines::Wanted>) {
        if let Some(lifelines) = &mut self.lifelines {
            lifelines.set(wanted);
        }
    }

    /// Looks for them again: a service that starts anew has a new cgroup.
    pub fn refresh_lifelines(&mut self) {
        if let Some(lifelines) = &mut self.lifelines {
            lifelines.refresh();
        }
    }

    fn stands(&mut self, name: &str, outcome: Result<(), String>) {
        let now = Standing {
            layer: name.to_owned(),
            absent: outcome.err(),
        };
        match self
            .layers
            .iter_mut()
            .find(|standing| standing.layer == name)
        {
            Some(before) => *before = now,
            None => self.layers.push(now),
        }
    }

    fn with_maps(
        ebpf: &mut Ebpf,
        pinned: &Path,
        port: u16,
        fresh: bool,
    ) -> Result<Self, InterceptError> {
        use imds_guard_ebpf::map;
        let open = |name: &str| {
            bpf::open_pinned(&pinned.join(name)).map_err(InterceptError::system("opening a map"))
        };
        let own = environment::Cgroup2::find()?.own_directory()?;
        let filters = filters::SharedFilters::new(take(ebpf, map::SHARED_FILTERS)?, &own)
            .map_err(InterceptError::system("opening our own cgroup"))?;
        Ok(Self {
            filters,
            port,
            fresh,
            listeners: None,
            namespaces: None,
            switch: None,
            records: open(map::RECORDS)?,
            records_readonly: bpf::open_pinned_readonly(&pinned.join(map::RECORDS))
                .map_err(InterceptError::system("opening the attribution map"))?,
            upstream: open(map::UPSTREAM)?,
            listener_marks: open(map::LISTENERS)?,
            tables: endpoints::Tables {
                endpoints: take(ebpf, map::ENDPOINTS)?,
                addresses: take(ebpf, map::ADDRESSES)?,
                prefilter: take(ebpf, map::PREFILTER)?,
            },
            guarded: vec![],
            uplinks: None,
            raw_sockets: None,
            layers: vec![],
            counters: take(ebpf, map::COUNTERS)?,
            events: Some(take(ebpf, map::EVENTS)?),
            lease: None,
            drift: None,
            bypasses: Bypasses::new(take(ebpf, map::BYPASSES)?),
            lifelines: None,
            _held: None,
            refused: vec![],
        })
    }

    /// Whether this start found nothing of a former run: if the rest of the guard's start fails, [`teardown`] then
    /// restores the host; otherwise the former protection has to stay.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The listeners that [`start`](Self::start) opened in its own network namespace; once.
    pub fn open_listeners(&mut self) -> Option<Arc<Listeners>> {
        self.listeners.take()
    }

    /// Marks the issuer's listener in the maps of this start, so that it is known again should it outlive us.
    ///
    /// # Errors
    /// The errno of bpf(2).
    pub fn mark_issuer(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let map = self.listener_marks.as_fd();
        bpf::update_u32(map, listener, imds_guard_ebpf::ISSUER_MARK)
    }

    /// What the service manager kept and could not be used: names.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// The listeners in all other network namespaces, those that are there among them; once.
    pub fn namespaces(&mut self) -> Option<Namespaces> {
        self.namespaces.take()
    }

    /// Makes the kernel's table equal to `endpoints`; connections meanwhile are judged by the old or the new entry.
    ///
    /// # Errors
    /// [`InterceptError::BadEndpoints`] before anything is changed.
    pub fn set_endpoints(&mut self, endpoints: &[GuardedEndpoint]) -> Result<(), InterceptError> {
        // Before anybody is steered, so that nobody is refused for want of a listener.
        if let Some(switch) = &self.switch {
            switch.serve(endpoints::steers(endpoints));
        }
        endpoints::write(&mut self.tables, endpoints, self.port)?;
        self.guarded = endpoints.to_vec();
        self.refresh_uplinks();
        Ok(())
    }

    /// What became of each layer at this start.
    #[must_use]
    pub fn layers(&self) -> &[Standing] {
        &self.layers
    }

    /// Looks which cgroup filters our own sockets pass, and tells the kernel. To be called now and then: others come and go.
    ///
    /// # Errors
    /// [`InterceptError::System`]. What the kernel knew before stays.
    pub fn refresh_filters(&mut self) -> Result<(), InterceptError> {
        self.filters.refresh().map_err(InterceptError::system(
            "looking at the filters of our own cgroup",
        ))
    }

    /// Before our own filter is attached: else whoever connects in the moment between counts as having a foreign one.
    fn expect_filter(&mut self, ebpf: &Ebpf) -> Result<(), InterceptError> {
        let info = ebpf.program(load::FILTER).and_then(|p| p.info().ok());
        let Some(info) = info else {
            return Ok(());
        };
        self.filters
            .expect(info.id())
            .map_err(InterceptError::system(
                "telling the kernel of our own filter",
            ))
    }

    /// Who is connected through `socket`, which has to be one that our listener accepted. `None`: the kernel recorded nobody,
    /// or whoever it was is not connected any more; refuse. (A record stays with its socket whatever becomes of that: a
    /// proxy could keep it for ever, or connect it to another place.)
    ///
    /// # Errors
    /// The errno of bpf(2), or of asking what is no TCP socket.
    pub fn record(&self, socket: BorrowedFd<'_>) -> io::Result<Option<CallerRecord>> {
        if !sockopt::is_connected(socket)? || sockopt::local_port(socket)? != Some(self.port) {
            return Ok(None);
        }
        bpf::lookup_record(self.records.as_fd(), socket)
    }

    /// The attribution map for the proxy: this descriptor allows look-up alone.
    #[must_use]
    pub fn attribution_fd_readonly(&self) -> BorrowedFd<'_> {
        self.records_readonly.as_fd()
    }

    /// Who passes for a while.
    pub fn bypasses(&mut self) -> &mut Bypasses {
        &mut self.bypasses
    }

    /// The upstream-marker map for the proxy, writable.
    #[must_use]
    pub fn upstream_fd(&self) -> BorrowedFd<'_> {
        self.upstream.as_fd()
    }

    /// All counters since the maps were made, summed over CPUs.
    ///
    /// # Errors
    /// The errno of bpf(2).
    pub fn counters(&self) -> io::Result<Vec<(Counter, u64)>> {
        Counter::ALL
            .iter()
            .map(|&counter| {
                let per_cpu = self
                    .counters
                    .get(&(counter as u32), 0)
                    .map_err(|e| io::Error::other(e.to_string()))?;
                Ok((counter, per_cpu.iter().sum()))
            })
            .collect()
    }

    /// The reader of the kernel's notes; once. Call it within a tokio runtime.
    ///
    /// # Errors
    /// If it was taken before, or without a runtime's IO driver.
    pub fn events(&mut self) -> io::Result<Events> {
        let ring = self
            .events
            .take()
            .ok_or_else(|| io::Error::other("the events have a reader already"))?;
        Events::new(ring)
    }
}

/// The names of what came back and is not used, each with a word in the log.
fn told(refused: Vec<(String, kept::Refused)>) -> Vec<String> {
    let tell = |(name, why): (String, kept::Refused)| {
        tracing::warn!(
            name,
            "a listener that the service manager kept is not used: {why}"
        );
        name
    };
    refused.into_iter().map(tell).collect()
}

fn clone(fd: &OwnedFd) -> Result<OwnedFd, InterceptError> {
    fd.try_clone()
        .map_err(InterceptError::system("duplicating a map's descriptor"))
}

/// Puts in force what this kernel takes of the programs that it may go without, and says what became of each layer.
fn optional(ebpf: &mut Ebpf, pins: &mut pins::Pins, root: &Path) -> Vec<Standing> {
    let mut stand = |layer: &Layer| -> Result<(), InterceptError> {
        let mut programs = layer.links.iter().filter(|l| load::OPTIONAL.contains(l));
        programs.try_for_each(|name| {
            load::load_optional(ebpf, name)?;
            pins.attach_optional(ebpf, name, root)
        })
    };
    let of = |layer: &Layer| match stand(layer) {
        Ok(()) => layer.stands(),
        Err(why) => layer.absent(why.to_string()),
    };
    let here = |layer: &&Layer| ![layer::FRAMES, layer::NETFILTER].contains(&layer.name);
    LAYERS.iter().filter(here).map(of).collect()
}

fn uplink_program(ebpf: &mut Ebpf) -> Result<OwnedFd, InterceptError> {
    load::load_optional(ebpf, load::UPLINK)?;
    let wrong = |detail: String| InterceptError::WrongObject { detail };
    let program = ebpf
        .program(load::UPLINK)
        .ok_or_else(|| wrong("no program uplink".into()))?;
    let fd = program.fd().map_err(|e| wrong(e.to_string()))?;
    let fd = fd.as_fd().try_clone_to_owned();
    fd.map_err(InterceptError::system("duplicating a program's descriptor"))
}

/// Whether this kernel takes the programs, without any of it coming into force.
///
/// # Errors
/// [`InterceptError::MissingFeature`] with what it lacks, [`InterceptError::NotPermitted`].
pub fn trial(port: u16) -> Result<Trial, InterceptError> {
    load::trial(
        embedded(),
        &load::Parameters {
            port,
            issuer: endpoints::issuer(None, 0),
            passage: imds_guard_ebpf::Passage {
                mark: 0,
                priority: 0,
            },
        },
    )
}

/// The named map in its typed form.
fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, InterceptError> {
    let wrong = |detail| InterceptError::WrongObject { detail };
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| wrong(format!("no map {name}")))?;
    T::try_from(map).map_err(|e| wrong(format!("map {name}: {e}")))
}

/// Ends interception: detaches everything pinned in `pin_dir`, frees the maps, and removes the rules for uplinks
/// from the calling thread's network namespace. `false`: there was nothing.
///
/// # Errors
/// [`InterceptError::NoBpffs`] if that is no place of pins, [`InterceptError::NotPermitted`], [`InterceptError::Tables`].
pub fn teardown(pin_dir: &Path) -> Result<bool, InterceptError> {
    let pins = pins::remove_all(pin_dir)?;
    // Last, for they stop the proxy as anybody once its packets carry nothing any more.
    let rules = uplinks::remove_table()?;
    Ok(pins || rules)
}

/// Whether no guard runs with `pin_dir`.
///
/// # Errors
/// [`InterceptError::PinsHeld`] where one does, [`InterceptError::NotPermitted`].
pub fn is_free(pin_dir: &Path) -> Result<(), InterceptError> {
    pins::is_free(pin_dir)
}
