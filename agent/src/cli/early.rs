//! `imds-guard early`: guards before the guard runs.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::guard;
use crate::intercept::Early;

/// Arguments of `early`. The defaults are those of the packaged units.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Main configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// Cgroup below which callers are guarded [default: the root of the cgroup2 hierarchy].
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Where kernel programs and maps are pinned; must lie on a bpffs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/imds-guard")]
    pub pin_dir: PathBuf,
    /// Loopback port of the listeners to which the kernel will steer.
    #[arg(long, value_name = "PORT", default_value_t = 8788)]
    pub port: u16,
    /// A system service that may ask the real service until the guard runs, by the name of its unit; may be repeated.
    #[arg(long = "pass", value_name = "UNIT", value_parser = unit)]
    pub pass: Vec<String>,
}

/// The name of a service, and not a path.
fn unit(name: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@:\\".contains(&b);
    match name.strip_suffix(".service") {
        Some(stem) if !stem.is_empty() && name.bytes().all(plain) => Ok(name.to_owned()),
        _ => Err("write a service's unit, such as cloud-init-local.service".to_owned()),
    }
}

/// # Errors
/// Exit code 2 for configuration and policy, 3 for what the machine lacks, 1 for the rest.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    super::log::start();
    let early = guard::early(
        &args.config,
        args.cgroup_root.clone(),
        &args.pin_dir,
        args.port,
        &args.pass,
    );
    let early = early.map_err(|error| Failure::new(error.exit(), error))?;
    match early {
        Early::Guarding => {
            tracing::info!("guarding: enforced addresses refuse connections until the guard runs")
        }
        Early::GuardedAlready => tracing::info!("a guard has run since boot: nothing to do"),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_unit_is_a_name_and_no_path() {
        assert!(super::unit("cloud-init-local.service").is_ok());
        for bad in ["", ".service", "cloud-init", "../x.service", "a/b.service"] {
            assert!(super::unit(bad).is_err(), "{bad}");
        }
    }
}
