//! The policy in force: loaded, turned into the kernel's endpoint table and into what the proxy is sent. A reload that fails
//! changes nothing.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use imds_guard_core::imds::Service;
use imds_guard_core::policy::settings::{Endpoint, Lifeline};
use imds_guard_core::policy::{Mode, OtherTraffic, PolicySet, Settings, Source};
use imds_guard_core::request::Cloud;
use imds_guard_core::seam::{self, PolicyFiles};
use imds_guard_ebpf::CallerRecord;

use super::{GuardError, now};
use crate::config::{self, ConfigError, custody, trust};
use crate::intercept::lifelines::Wanted;
use crate::intercept::{
    GuardedEndpoint, Hardening, Mode as KernelMode, OtherTraffic as KernelOtherTraffic, endpoint_id,
};
use crate::sys::memfd;

/// What is in force.
#[derive(Debug)]
pub(super) struct Policy {
    /// Grows with each reload.
    pub(super) epoch: u64,
    /// Short hash of all files.
    pub(super) digest: String,
    /// Configuration.
    pub(super) settings: Settings,
    /// What decides.
    pub(super) set: PolicySet,
    /// Whether a rule names the executable's hash.
    pub(super) wants_hash: bool,
    hostname: Arc<str>,
    files: PolicyFiles,
    /// As compiled, presets among them: what is told later of a file speaks of these.
    compiled: Vec<Source>,
}

impl Policy {
    /// Reads and compiles.
    pub(super) fn load(main: &Path, epoch: u64) -> Result<Self, ConfigError> {
        Self::of(config::read(main)?, epoch)
    }

    /// Compiles what was read before.
    pub(super) fn of(sources: Vec<Source>, epoch: u64) -> Result<Self, ConfigError> {
        let hostname = hostname();
        let loaded = config::of(sources, &hostname, now())?;
        for warning in loaded.compiled.warnings.to_string().split("\n\n") {
            if !warning.trim().is_empty() {
                tracing::warn!("{}", warning.trim());
            }
        }
        // A text search: it may only err on the side of hashing for nothing.
        let wants_hash = loaded.sources.iter().any(|s| s.text.contains("sha256"));
        Ok(Self {
            epoch,
            digest: loaded.digest,
            settings: loaded.compiled.settings,
            set: loaded.compiled.policy,
            wants_hash,
            compiled: loaded.compiled.warnings.sources,
            hostname,
            files: PolicyFiles {
                files: loaded.sources,
            },
        })
    }

    /// What it was made from: the main file first.
    pub(super) fn sources(&self) -> &[Source] {
        &self.files.files
    }

    /// The trust roots, where it needs some.
    pub(super) fn roots(&self) -> Result<Option<Arc<str>>, ConfigError> {
        let read = |path: &Path| custody::read(path).map_err(|error| error.to_string());
        trust::roots_of(&self.settings, &self.compiled, read).map_err(ConfigError::Policy)
    }

    /// The layers behind the socket layer.
    pub(super) fn hardening(&self) -> Hardening {
        let settings = &self.settings.hardening;
        Hardening {
            uplinks: settings.uplinks.clone(),
            raw_sockets_for: settings.raw_sockets_for.clone(),
        }
    }

    /// The kernel's endpoint table.
    pub(super) fn endpoints(&self) -> Vec<GuardedEndpoint> {
        self.settings
            .guarded()
            .iter()
            .map(|guarded| GuardedEndpoint {
                address: guarded.address.ip(),
                port: guarded.address.port(),
                mode: match guarded.mode {
                    Mode::Observe => KernelMode::Observe,
                    Mode::Audit => KernelMode::Audit,
                    Mode::Enforce => KernelMode::Enforce,
                },
                id: endpoint_id(guarded.address),
                denies: self.set.enforces_denies(),
                other_traffic: guarded.other_traffic.map(|word| match word {
                    OtherTraffic::Pass => KernelOtherTraffic::Pass,
                    OtherTraffic::Ports => KernelOtherTraffic::Ports,
                    OtherTraffic::Refuse => KernelOtherTraffic::Refuse,
                }),
            })
            .collect()
    }

    /// Who reaches which endpoint while no guard lives.
    pub(super) fn lifelines(&self) -> Vec<Wanted> {
        let of = |lifeline: &Lifeline| {
            let named = |e: &&Endpoint| e.name == lifeline.endpoint;
            let endpoints = self.settings.endpoints.iter().filter(named);
            let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
            Wanted {
                executable: (&*lifeline.executable).into(),
                unit: lifeline.unit.to_string(),
                endpoints: addresses.map(|at| endpoint_id(*at).get()).collect(),
            }
        };
        self.settings.lifelines.iter().map(of).collect()
    }

    /// What is guarded for guests: what is enforced.
    pub(super) fn enforced(&self) -> Vec<GuardedEndpoint> {
        let mut enforced = self.endpoints();
        enforced.retain(|endpoint| endpoint.mode == KernelMode::Enforce);
        enforced
    }

    /// Whether what this caller dialled is the metadata service whose tokens are to be signed, and is guarded (not observed) still.
    pub(super) fn signs_at(&self, record: &CallerRecord, cloud: Cloud) -> bool {
        let address = std::net::IpAddr::from(record.address).to_canonical();
        let dialled = SocketAddr::new(address, record.port);
        self.is_imds(dialled, cloud, |mode| mode != Mode::Observe)
    }

    /// The same for a guest.
    pub(super) fn serves_guests(&self, dialled: SocketAddr, cloud: Cloud) -> bool {
        self.is_imds(dialled, cloud, |mode| mode == Mode::Enforce)
    }

    fn is_imds(&self, dialled: SocketAddr, cloud: Cloud, serves: impl Fn(Mode) -> bool) -> bool {
        let signs = [
            Service::AzureImds,
            Service::AwsImds,
            Service::AwsContainer,
            Service::GcpMetadata,
        ];
        let guarded = self.settings.guarded();
        guarded
            .iter()
            .filter(|g| g.address == dialled && serves(g.mode))
            .flat_map(|g| &g.endpoints)
            .filter_map(|at| self.settings.endpoints.get(*at))
            .any(|e| e.cloud == cloud && signs.contains(&Service::of_endpoint(&e.name, e.cloud)))
    }

    /// Whether what this caller dialled is in enforce mode, or not guarded any more.
    pub(super) fn enforces(&self, record: &CallerRecord) -> bool {
        let dialled = crate::audit::dialled(record);
        let guarded = self.settings.guarded();
        !guarded
            .iter()
            .any(|g| g.address == dialled && g.mode != Mode::Enforce)
    }

    /// What the proxy is sent: the message and the sealed file beside it.
    pub(super) fn push(&self) -> Result<(seam::Answer, OwnedFd), GuardError> {
        let bytes = self.files.encode()?;
        let file =
            memfd::sealed("imds-guard-policy", &bytes).map_err(|source| GuardError::Path {
                path: "memfd".into(),
                source,
                remedy: "free some memory",
            })?;
        let message = seam::Answer::Policy(seam::Policy {
            epoch: self.epoch,
            hostname: Arc::clone(&self.hostname),
            len: bytes.len() as u64,
        });
        Ok((message, file))
    }
}

fn hostname() -> Arc<str> {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
        .into()
}
