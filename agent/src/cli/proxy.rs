//! `imds-guard proxy`: the unprivileged half, on a socket from the guard.

use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::{Gid, Pid, Uid};

use super::{Exit, Failure};
use crate::proxy;
use crate::sys::{privilege, spawn};

/// Arguments of `proxy`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("seam").required(true).args(["seam_fd", "seam_socket"])))]
pub struct Args {
    /// Descriptor of the socket to the guard, inherited from it.
    #[arg(long, value_name = "FD")]
    pub seam_fd: Option<i32>,
    /// Path of the guard's socket.
    #[arg(long, value_name = "PATH")]
    pub seam_socket: Option<PathBuf>,
    /// Become this user, with no capability, before anything else. Without it: be it already.
    #[arg(long, value_name = "UID:GID", value_parser = ids, requires = "root")]
    pub user: Option<(u32, u32)>,
    /// See only this (empty) directory.
    #[arg(long, value_name = "DIR", requires = "user")]
    pub root: Option<PathBuf>,
    /// End when this process ends.
    #[arg(long, value_name = "PID")]
    pub parent: Option<i32>,
}

fn ids(text: &str) -> Result<(u32, u32), String> {
    let both = text.split_once(':').ok_or("write UID:GID")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no id"));
    Ok((number(both.0)?, number(both.1)?))
}

/// # Errors
/// When the guard can't be reached, power can't be given up, or the seam breaks.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    super::log::start();
    let seam = match (args.seam_fd, &args.seam_socket) {
        (Some(number), _) => spawn::inherited(number)?,
        (None, Some(path)) => proxy::connect(path)?,
        (None, None) => return Err(Failure::new(Exit::Usage, "no socket to the guard")),
    };
    if let Some((uid, gid)) = args.user {
        privilege::drop_to(Uid::from_raw(uid), Gid::from_raw(gid), args.root.as_deref())?;
    }
    if let Some(parent) = args.parent {
        privilege::die_with(Pid::from_raw(parent))?;
    }
    proxy::run(seam)?;
    Ok(ExitCode::SUCCESS)
}
