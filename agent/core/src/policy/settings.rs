//! The part of the main file that isn't policy: host, endpoints, issuer, audit, proxy, guests. Data for the guard and the proxy;
//! nothing here decides anything, except which mode an endpoint that several clouds share is in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Diagnostics, Place, Severity, Source};
use crate::request::Cloud;

pub use super::guest::{Guest, Mac, Network};

/// Everything that the main file configures beside policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who this host is, for `sub` templates.
    pub host: Host,
    /// Every endpoint, shipped and added, with its mode.
    pub endpoints: Vec<Endpoint>,
    /// The embedded issuer; none: nothing can be minted.
    pub issuer: Option<Issuer>,
    /// Where audit records go.
    pub audit: Audit,
    /// The proxy's limits.
    pub proxy: Proxy,
    /// Guests, as configured: which of them are there is for whoever looks at the host's interfaces.
    pub guests: Vec<Guest>,
    /// Layers behind the socket layer.
    pub hardening: Hardening,
    /// Who reaches which endpoint while no guard lives.
    pub lifelines: Vec<Lifeline>,
    /// Whom the clouds' own endpoints are vouched for by; none: nothing is exchanged with any.
    pub trust: Option<Trust>,
}

/// `[trust]`, or what stands in its place where the policy needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Absolute path of the file of trust roots.
    pub roots: Arc<str>,
    /// Whether somebody wrote it.
    pub is_written: bool,
    /// Where; else what needs it.
    place: Place,
}

/// Debian's file of trust roots.
pub const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Trust {
    pub(super) const fn new(roots: Arc<str>, is_written: bool, place: Place) -> Self {
        Self {
            roots,
            is_written,
            place,
        }
    }

    /// What is told where its file isn't good, because of `why`. `sources`: those of the compilation, as
    /// [`super::Compiled::warnings`] has them.
    pub fn refused(&self, sources: &[Source], why: &str) -> Diagnostics {
        let help = if self.is_written {
            "write the path of a PEM file with the authorities that vouch for the clouds' endpoints, which nobody but root can write: /etc/ssl/certs/ca-certificates.crt (Debian), /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem (Fedora, RHEL)"
        } else {
            "credentials of this identity come over HTTPS: install ca-certificates, or add [trust] with roots = \"/PATH/OF/ROOTS.pem\" to the main file"
        };
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            place: self.place.clone(),
            title: format!("the trust roots can't be used: {why}"),
            help: help.into(),
        };
        Diagnostics {
            sources: sources.to_vec(),
            all: vec![diagnostic],
        }
    }
}

/// `[[lifeline]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifeline {
    /// Absolute path of the executable, as `/proc/PID/exe` shows it.
    pub executable: Arc<str>,
    /// The service that it runs in.
    pub unit: Arc<str>,
    /// Name of the endpoint.
    pub endpoint: Arc<str>,
}

/// `[hardening]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hardening {
    /// Interfaces that lead to a metadata service, beside those that are found.
    pub uplinks: Vec<Arc<str>>,
    /// Cgroups whose processes may open raw sockets in the host's network namespace, where others may not; none: all may.
    pub raw_sockets_for: Option<Vec<Arc<str>>>,
}

/// `[host]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// SPIFFE trust domain, e.g. `example.org`.
    pub trust_domain: Option<Arc<str>>,
    /// This host's name; the machine's own where the file gives none.
    pub name: Arc<str>,
    /// The cluster it belongs to.
    pub cluster: Option<Arc<str>>,
}

/// `[issuer]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The `iss` claim, to the letter.
    pub url: Arc<str>,
    /// Where discovery document and JWKS are served; none: the operator publishes them elsewhere.
    pub listen: Option<SocketAddr>,
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// A file; none: standard output.
    pub file: Option<Arc<str>>,
}

/// `[proxy]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Connections served at once.
    pub max_connections: u32,
    /// The user that the proxy runs as when the guard starts it.
    pub user: Arc<str>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            user: "imds-guard-proxy".into(),
        }
    }
}

/// What happens to connections to an endpoint. Ordered: a later one is stricter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not touched; the kernel notes who connected.
    Observe,
    /// Steered; what isn't granted is forwarded and recorded as would-be-denied.
    Audit,
    /// Steered; what isn't granted is refused.
    Enforce,
}

impl Mode {
    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// What happens to traffic to an enforced endpoint's address that isn't for its port. Ordered: a later one is stricter, and
/// of several endpoints at one address the strictest holds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum OtherTraffic {
    /// Untouched.
    Pass,
    /// Other ports of TCP and UDP untouched, other protocols dropped. DNS and NTP live at the same addresses; nothing that a
    /// metadata service speaks is without ports.
    #[default]
    Ports,
    /// DNS, NTP and DHCP untouched, all else dropped.
    Refuse,
}

/// One service of one cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// e.g. `azure-imds`.
    pub name: Arc<str>,
    /// Whose it is.
    pub cloud: Cloud,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its mode.
    pub mode: Mode,
    /// What else may go to its addresses, where somebody said so.
    pub other_traffic: Option<OtherTraffic>,
}

/// One guarded (address, port), after endpoints that share it were merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// The address.
    pub address: SocketAddr,
    /// The strictest mode of the endpoints that live there.
    pub mode: Mode,
    /// Their strictest word on other traffic, where somebody said one.
    pub other_traffic: Option<OtherTraffic>,
    /// Their places in [`Settings::endpoints`].
    pub endpoints: Vec<usize>,
}

impl Settings {
    /// Every guarded address once, in a stable order.
    pub fn guarded(&self) -> Vec<Guarded> {
        let mut guarded: Vec<Guarded> = vec![];
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            for address in &endpoint.addresses {
                match guarded.iter_mut().find(|g| g.address == *address) {
                    Some(shared) => {
                        shared.mode = shared.mode.max(endpoint.mode);
                        shared.other_traffic = shared.other_traffic.max(endpoint.other_traffic);
                        shared.endpoints.push(at);
                    }
                    None => guarded.push(Guarded {
                        address: *address,
                        mode: endpoint.mode,
                        other_traffic: endpoint.other_traffic,
                        endpoints: vec![at],
                    }),
                }
            }
        }
        guarded
    }

    /// The mode that each endpoint is in: of several at one address, the strictest holds for all.
    pub fn modes(&self) -> Vec<(&Endpoint, Mode)> {
        let guarded = self.guarded();
        let at = |(number, endpoint): (usize, &'_ Endpoint)| {
            let here = guarded.iter().filter(|g| g.endpoints.contains(&number));
            here.map(|g| g.mode).max().unwrap_or(endpoint.mode)
        };
        let all = self.endpoints.iter().enumerate();
        all.map(|(number, endpoint)| (endpoint, at((number, endpoint))))
            .collect()
    }

    /// The mode in which requests to 169.254.169.254:80 are decided. Several clouds live there; the strictest holds for
    /// all, as it does in the kernel: see [`Settings::guarded`].
    pub fn mode(&self) -> Mode {
        let at = SocketAddr::from((LINK_LOCAL, 80));
        self.endpoints
            .iter()
            .filter(|e| e.addresses.contains(&at))
            .map(|e| e.mode)
            .max()
            .unwrap_or(Mode::Enforce)
    }
}

const LINK_LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const WIRESERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16));
const AWS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));
const ECS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2));
const EKS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23));
const EKS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23));
const GCP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254));

/// Name, cloud, addresses.
pub type ShippedEndpoint = (&'static str, Cloud, &'static [(IpAddr, u16)]);

/// Google's metadata server behind TLS: the same credentials, in a channel that nobody can look into. So it is open or shut,
/// and there is no audit of it.
pub const MTLS: &str = "gcp-mtls";

/// The endpoints that are known without being configured.
pub const SHIPPED: [ShippedEndpoint; 8] = [
    ("azure-imds", Cloud::Azure, &[(LINK_LOCAL, 80)]),
    ("azure-wireserver", Cloud::Azure, &[(WIRESERVER, 80)]),
    ("azure-hostga", Cloud::Azure, &[(WIRESERVER, 32526)]),
    ("aws-imds", Cloud::Aws, &[(LINK_LOCAL, 80), (AWS_V6, 80)]),
    ("aws-ecs", Cloud::Aws, &[(ECS, 80)]),
    ("aws-eks", Cloud::Aws, &[(EKS, 80), (EKS_V6, 80)]),
    ("gcp-imds", Cloud::Gcp, &[(LINK_LOCAL, 80), (GCP_V6, 80)]),
    (MTLS, Cloud::Gcp, &[(LINK_LOCAL, 443), (GCP_V6, 443)]),
];
