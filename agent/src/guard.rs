//! The privileged process: puts interceptor, attestation, keys and seam together, and supervises the proxy.
//!
//! The walk of a start: configuration, state, sockets, and last the kernel, so that whatever is wrong is told before
//! anything is in force. Then one loop: signals, asks of the proxy, the proxy's life, notes of the kernel.
//! Never parses what a caller wrote, and never takes protection away when it ends.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod answers;
mod audit;
mod bypass;
mod child;
mod control;
mod dial;
mod drift;
mod error;
mod guests;
mod notify;
mod outbound;
mod policy;
mod seam;
mod service;
mod session_key;
mod spaces;
mod start;
mod store;
mod trial;

pub use audit::Audit;
pub use error::GuardError;
use service::Guard;

use crate::intercept;

/// How `run` was called.
#[derive(Debug, Clone)]
pub struct Options {
    /// Main configuration file.
    pub config: PathBuf,
    /// Where the signing key lives.
    pub state_dir: PathBuf,
    /// Where sockets and the proxy's empty root are made.
    pub run_dir: PathBuf,
    /// Attach below this cgroup; `None`: at the root of the hierarchy.
    pub cgroup_root: Option<PathBuf>,
    /// Where the kernel's programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Port of the listeners.
    pub port: u16,
    /// Audit records go here; `None`: what the configuration says, else stdout.
    pub audit: Option<PathBuf>,
    /// Whether the guard starts the proxy itself.
    pub spawn: bool,
    /// User of the proxy (`NAME`, or `UID:GID`); `None`: what the configuration says.
    pub proxy_user: Option<String>,
}

/// How long a proxy may take to finish what it answers after the guard was told to end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Guards this host until told to end.
///
/// # Errors
/// Why it could not start, with nothing of this start left behind; or why it had to end.
pub fn run(options: Options) -> Result<(), GuardError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(GuardError::NotRoot);
    }
    let returned = store::Returned::take();
    crate::sys::privilege::no_core()?;
    start::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GuardError::Runtime)?;
    runtime.block_on(async {
        let mut store = returned.store();
        match Guard::start(options, returned) {
            Ok(mut guard) => guard.serve(store).await,
            Err(error) => {
                // Callers that wait there would wait for nothing.
                store.let_go();
                Err(error)
            }
        }
    })
}

/// Guards without anybody who answers, until a guard runs: for the time before the network is up. `pass`: units that may ask the
/// real service meanwhile.
///
/// # Errors
/// Why it could not, with nothing left behind.
pub fn early(
    config: &Path,
    cgroup_root: Option<PathBuf>,
    pin_dir: &Path,
    port: u16,
    pass: &[String],
) -> Result<intercept::Early, GuardError> {
    let policy = policy::Policy::load(config, 1)?;
    let issuer = policy.settings.issuer.as_ref();
    let settings = intercept::Settings {
        cgroup_root,
        pin_dir: pin_dir.into(),
        port,
        endpoints: policy.endpoints(),
        issuer: issuer.and_then(|issuer| issuer.listen),
        hardening: policy.hardening(),
    };
    Ok(intercept::early(&settings, pass)?)
}

/// Unix time in seconds.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
