//! `imds-guard run`: the guard in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::guard;

/// Arguments of `run`. The defaults are those of the packaged units.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Main configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// Where the signing key lives; made with mode 0700.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/imds-guard")]
    pub state_dir: PathBuf,
    /// Where the socket between the two processes is made.
    #[arg(long, value_name = "DIR", default_value = "/run/imds-guard")]
    pub run_dir: PathBuf,
    /// Cgroup below which callers are guarded [default: the root of the cgroup2 hierarchy].
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Where kernel programs and maps are pinned; must lie on a bpffs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Loopback port of the listeners to which the kernel steers.
    #[arg(long, value_name = "PORT", default_value_t = 8788)]
    pub port: u16,
    /// File to which audit records are appended [default: what the configuration says, else stdout].
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Who runs the proxy: this process, or a unit of its own that connects to RUN_DIR/seam.sock.
    #[arg(long, value_enum, default_value_t = ProxyMode::Spawn)]
    pub proxy: ProxyMode,
    /// User that the proxy runs as, NAME or UID:GID [default: what the configuration says, else imds-guard-proxy].
    #[arg(long, value_name = "USER")]
    pub proxy_user: Option<String>,
}

/// Who starts the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyMode {
    /// The guard forks it, drops its privileges, and restarts it when it dies.
    Spawn,
    /// It is a service of its own.
    Socket,
}

/// # Errors
/// Exit code 2 for configuration and policy, 3 for what the machine lacks, 1 for the rest.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    super::log::start();
    guard::run(guard::Options {
        config: args.config,
        state_dir: args.state_dir,
        run_dir: args.run_dir,
        cgroup_root: args.cgroup_root,
        pin_dir: args.pin_dir,
        port: args.port,
        audit: args.audit,
        spawn: args.proxy == ProxyMode::Spawn,
        proxy_user: args.proxy_user,
    })
    .map_err(|error| Failure::new(error.exit(), error))?;
    Ok(ExitCode::SUCCESS)
}
