//! Why the guard could not start or had to end: one line each, with the remedy, and the exit code that it means.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::attest::cgroup::NoCgroup2;
use crate::cli::Exit;
use crate::config::ConfigError;
use crate::intercept::InterceptError;
use crate::issuer::StoreError;
use crate::sys::privilege::DropError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Not root.
    #[error("that takes root: use sudo, or `systemctl start imds-guard` to start the guard")]
    NotRoot,
    /// Configuration or policy.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Interception.
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    /// Signing key or state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No cgroup2.
    #[error(transparent)]
    Cgroup(#[from] NoCgroup2),
    /// Own hardening failed.
    #[error("can't give up core files: {0}")]
    Harden(#[from] DropError),
    /// The user of the proxy is not there.
    #[error(
        "there is no user `{0}` for the proxy: `useradd --system --shell /usr/sbin/nologin {0}`, or name another with --proxy-user"
    )]
    NoProxyUser(String),
    /// The user of the proxy is root.
    #[error("the proxy can't run as root: name a user of its own with --proxy-user")]
    ProxyIsRoot,
    /// A directory or file of ours.
    #[error("{path}: {source}: {remedy}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Another guard.
    #[error("another imds-guard runs with {0}: stop it, or name another --run-dir")]
    AlreadyRunning(PathBuf),
    /// The issuer's address.
    #[error(
        "can't listen on {address} for the issuer's documents: {source}: change `listen` in [issuer], or stop what uses the port"
    )]
    IssuerListen {
        /// Which.
        address: std::net::SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
    /// A system call that has no remedy of its own.
    #[error("{0}: {1}")]
    System(&'static str, #[source] Errno),
    /// The runtime.
    #[error("can't start the event loop: {0}")]
    Runtime(#[source] std::io::Error),
    /// The packet filter's rules can't be removed.
    #[error("the packet filter's table imds_guard is not removed: {error}")]
    Rules {
        /// Why.
        error: crate::intercept::nft::NftError,
    },
    /// The policy doesn't fit the seam.
    #[error("the policy can't be handed to the proxy: {0}")]
    Seam(#[from] imds_guard_core::seam::SeamError),
}

impl GuardError {
    /// The exit code that it means.
    pub fn exit(&self) -> Exit {
        use InterceptError as I;
        match self {
            Self::Config(_) | Self::ProxyIsRoot | Self::Intercept(I::BadEndpoints { .. }) => {
                Exit::Usage
            }
            Self::NotRoot
            | Self::Cgroup(_)
            | Self::NoProxyUser(_)
            | Self::Intercept(
                I::NoPrograms
                | I::NotPermitted { .. }
                | I::NoCgroup2
                | I::NotCgroup2 { .. }
                | I::OutsideRoot { .. }
                | I::OtherClock
                | I::NoBpffs { .. }
                | I::MissingFeature { .. }
                | I::NoBtf { .. },
            ) => Exit::Environment,
            _ => Exit::Failed,
        }
    }
}
