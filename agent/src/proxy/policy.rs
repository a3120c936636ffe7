//! The policy that is served by: compiled here from the very files that the guard compiled, with the same core, and
//! replaced as a whole by each push. Never reads a file.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use imds_guard_core::imds::{Arrival, Service};
use imds_guard_core::policy::settings::Guarded;
use imds_guard_core::policy::{self, Mode, PolicySet, Settings};
use imds_guard_core::request::Cloud;
use imds_guard_core::seam::{self, POLICY_LIMIT, PolicyFiles, SeamError};

use super::ready::Ready;
use crate::caller::Caller;
use crate::intercept::endpoint_id;
use crate::sys::memfd;
use crate::upstream::Endpoint;

/// Why a pushed policy can't be served by.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No file came with it.
    #[error("the guard sent a policy without its files")]
    Missing,
    /// They can't be read.
    #[error("can't read the policy that the guard sent: {0}")]
    Read(#[from] std::io::Error),
    /// They don't decode.
    #[error("the guard sent a policy that does not decode: {0}")]
    Codec(#[from] SeamError),
    /// The guard accepted them and we don't: two versions of one program.
    #[error("the guard sent a policy that has errors:\n{0}")]
    Bad(policy::Diagnostics),
}

/// One policy, compiled.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Grows with each push.
    pub(crate) epoch: u64,
    /// What decides.
    pub(crate) set: PolicySet,
    /// What was rendered of its documents.
    pub(crate) ready: Ready,
    settings: Settings,
    guarded: Vec<Guarded>,
}

/// Where a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Door {
    /// For the dialect.
    pub(crate) arrival: Arrival,
    /// What happens there to a caller without a grant.
    pub(crate) mode: Mode,
}

impl Policy {
    /// Compiles what was pushed. `now` is Unix time in seconds.
    pub(crate) fn receive(
        pushed: &seam::Policy,
        mut fds: Vec<OwnedFd>,
        now: i64,
    ) -> Result<Self, PolicyError> {
        let files = fds.pop().ok_or(PolicyError::Missing)?;
        let files = PolicyFiles::decode(&memfd::read(files, POLICY_LIMIT)?)?;
        let compiled =
            policy::compile(&files.files, &pushed.hostname, now).map_err(PolicyError::Bad)?;
        Ok(Self {
            epoch: pushed.epoch,
            set: compiled.policy,
            ready: Ready::default(),
            guarded: compiled.settings.guarded(),
            settings: compiled.settings,
        })
    }

    /// What is guarded where this caller connected to; none where nothing is guarded any more.
    pub(crate) fn door(&self, caller: &Caller) -> Option<Door> {
        let dialled = caller.dialled();
        let at = self.guarded.iter().find(|g| g.address == dialled)?;
        // Guests are served where a grant is enforced alone: nothing else could pass by the way that it had without us.
        if caller.guest().is_some() && at.mode != Mode::Enforce {
            return None;
        }
        // Several clouds live at one address: what is spoken there is the dialect of the one that is guarded strictest.
        let endpoint = at
            .endpoints
            .iter()
            .filter_map(|i| self.settings.endpoints.get(*i))
            .find(|endpoint| endpoint.mode == at.mode)?;
        Some(Door {
            arrival: Arrival {
                service: Service::of_endpoint(&endpoint.name, endpoint.cloud),
                address: dialled.ip(),
                port: dialled.port(),
            },
            mode: at.mode,
        })
    }

    /// Every guarded address, whatever its mode.
    pub(crate) fn guarded(&self) -> impl Iterator<Item = SocketAddr> {
        self.guarded.iter().map(|guarded| guarded.address)
    }

    /// Where the machine's own identity of `cloud` is to be had: where the caller came to, if that is its metadata service, or
    /// else where that is.
    pub(crate) fn node(&self, cloud: Cloud, dialled: Endpoint) -> Option<Endpoint> {
        let service = match cloud {
            Cloud::Aws => Service::AwsImds,
            Cloud::Gcp => Service::GcpMetadata,
            Cloud::Azure => return None,
        };
        let all = self.settings.endpoints.iter();
        let mut own =
            all.filter(|e| e.cloud == cloud && Service::of_endpoint(&e.name, e.cloud) == service);
        if own.clone().any(|e| e.addresses.contains(&dialled.address)) {
            return Some(dialled);
        }
        let address = *own.find_map(|e| e.addresses.first())?;
        let id = endpoint_id(address).get();
        Some(Endpoint { address, id })
    }

    /// Connections served at once.
    pub(crate) fn max_connections(&self) -> usize {
        usize::try_from(self.settings.proxy.max_connections).unwrap_or(usize::MAX)
    }
}
