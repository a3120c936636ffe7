//! The pieces of a start that are not the kernel: directories, the lock, the proxy's user, the issuer's listener. Each
//! refuses with its remedy; none leaves anything in force.

use std::fs::{DirBuilder, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use imds_guard_core::policy::Settings;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

use super::audit::Audit;
use super::{GuardError, Options};
use crate::intercept::{self, layer::Standing};
use crate::issuer::Issuer;

const RUN_REMEDY: &str =
    "make it a directory that only root can write, or name another with --run-dir";

/// Makes the run directory and the empty directory that will be all that the proxy sees.
pub(super) fn run_directory(run: &Path) -> Result<std::path::PathBuf, GuardError> {
    let empty = run.join("empty");
    for dir in [run, &empty] {
        directory(dir).map_err(|source| GuardError::Path {
            path: dir.into(),
            source,
            remedy: RUN_REMEDY,
        })?;
    }
    Ok(empty)
}

fn directory(path: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let is = std::fs::symlink_metadata(path)?;
    if !is.is_dir() {
        return Err(std::io::ErrorKind::NotADirectory.into());
    }
    if is.uid() != 0 || is.mode() & 0o022 != 0 {
        return Err(std::io::Error::other("others can write it"));
    }
    Ok(())
}

/// One guard per run directory; held until the process ends.
pub(super) fn lock(run: &Path) -> Result<Flock<std::fs::File>, GuardError> {
    let path = run.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| GuardError::Path {
            path,
            source,
            remedy: RUN_REMEDY,
        })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| GuardError::AlreadyRunning(run.into()))
}

/// The audit file that was named at the start, else the configured one.
pub(super) fn audit(named: Option<&Path>, settings: &Settings) -> Result<Audit, GuardError> {
    let configured = settings.audit.file.as_deref().map(Path::new);
    Audit::open(named.or(configured))
}

/// The proxy's user and group, as named at the start, else as configured: a name in `/etc/passwd`, or `UID:GID`.
pub(super) fn proxy_user(
    named: Option<&str>,
    settings: &Settings,
) -> Result<(Uid, Gid), GuardError> {
    user(named.unwrap_or(&settings.proxy.user))
}

fn user(user: &str) -> Result<(Uid, Gid), GuardError> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let (uid, gid) = ids(user, &passwd).ok_or_else(|| GuardError::NoProxyUser(user.to_owned()))?;
    if uid == 0 || gid == 0 {
        return Err(GuardError::ProxyIsRoot);
    }
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn ids(user: &str, passwd: &str) -> Option<(u32, u32)> {
    if let Some((uid, gid)) = user.split_once(':') {
        return Some((uid.parse().ok()?, gid.parse().ok()?));
    }
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(user))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The issuer, where one is configured.
pub(super) fn issuer(settings: &Settings, state: &Path) -> Result<Option<Issuer>, GuardError> {
    let open = |issuer| Issuer::open(issuer, state, super::now());
    Ok(settings.issuer.as_ref().map(open).transpose()?)
}

/// The listener of the issuer's documents, where it has one.
pub(super) fn issuer_listener(
    address: Option<SocketAddr>,
    pin_dir: &Path,
    kept: Option<intercept::Kept>,
) -> Result<Option<OwnedFd>, GuardError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = intercept::for_issuer(address, pin_dir, kept);
    let listener = listener.map_err(|source| GuardError::IssuerListen { address, source })?;
    Ok(Some(listener))
}

/// What stands between callers and the metadata addresses, layer by layer, and what may come in the way of the next start.
pub(super) fn tell(layers: &[Standing], options: &Options, issuer: Option<SocketAddr>) {
    warn_of_ports(issuer.iter().map(SocketAddr::port).chain([options.port]));
    tell_changes(&[], layers, &options.run_dir);
}

/// What has become of layers since.
pub(super) fn tell_changes(before: &[Standing], now: &[Standing], run: &Path) {
    if before != now {
        note(now, run);
    }
    for changed in now.iter().filter(|standing| !before.contains(standing)) {
        let Standing { layer, absent } = changed;
        match absent {
            None => tracing::info!(layer, "stands"),
            Some(why) => tracing::warn!(layer, "does not stand: {why}"),
        }
    }
}

/// Leaves the same for `doctor`, which sees what is absent but not why. Nothing rests on it.
fn note(layers: &[Standing], run: &Path) {
    let path = run.join(Standing::FILE);
    let text = serde_json::to_vec(layers).unwrap_or_default();
    if let Err(error) = std::fs::write(&path, text) {
        tracing::warn!(path = %path.display(), %error, "can't note the layers for doctor");
    }
}

/// Hears of changes of interfaces; without it, uplinks are looked for at the start and at each reload.
pub(super) fn watch() -> Option<intercept::Watch> {
    intercept::Watch::new()
        .inspect_err(|error| tracing::warn!(%error, "changes of interfaces can't be watched"))
        .ok()
}

/// Ends connections that are older than interception; without it, what they send is dropped.
pub(super) fn older(interceptor: &intercept::Interceptor) -> Option<intercept::Older> {
    let upstream = interceptor.upstream_fd().try_clone_to_owned();
    upstream
        .and_then(intercept::Older::begin)
        .inspect_err(|error| tracing::warn!(%error, "connections that are older than the guard can't be ended"))
        .ok()
}

/// A port that the kernel may give to anybody's connection can be taken when the guard wants to have it.
fn warn_of_ports(ports: impl Iterator<Item = u16>) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
    let (Ok(range), Ok(reserved)) = (read("ip_local_port_range"), read("ip_local_reserved_ports"))
    else {
        return;
    };
    for port in ports {
        if is_ephemeral(port, &range, &reserved) {
            tracing::warn!(
                port,
                "lies in net.ipv4.ip_local_port_range: add it to net.ipv4.ip_local_reserved_ports, or some connection may have it when the guard starts"
            );
        }
    }
}

fn is_ephemeral(port: u16, range: &str, reserved: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut ends = range.split_whitespace().filter_map(number);
    let (Some(low), Some(high)) = (ends.next(), ends.next()) else {
        return false;
    };
    let kept = reserved.trim().split(',').any(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        number(from).is_some_and(|from| from <= port) && number(to).is_some_and(|to| port <= to)
    });
    (low..=high).contains(&port) && !kept
}

/// Each attested process costs two descriptors.
pub(super) fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_by_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nproxy:x:13:14::/:/bin/false\n";
        assert_eq!(ids("proxy", passwd), Some((13, 14)));
        assert_eq!(ids("65534:65533", passwd), Some((65534, 65533)));
        assert_eq!(ids("prox", passwd), None);
        assert!(matches!(user("0:5"), Err(GuardError::ProxyIsRoot)));
        assert!(matches!(
            user("no such user"),
            Err(GuardError::NoProxyUser(_))
        ));
    }

    #[test]
    fn a_second_guard_with_the_same_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(matches!(
            lock(folder.path()),
            Err(GuardError::AlreadyRunning(_))
        ));
        drop(held);
        assert!(lock(folder.path()).is_ok());
    }

    #[test]
    fn ports_that_a_connection_may_get_are_known() {
        let range = "32768\t60999\n";
        assert!(is_ephemeral(40000, range, "\n"));
        assert!(is_ephemeral(40000, range, "39999,40001-40002\n"));
        assert!(!is_ephemeral(40000, range, "8080,39990-40010\n"));
        assert!(!is_ephemeral(8779, range, "\n"));
    }

    #[test]
    fn a_taken_port_is_told_with_its_remedy() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let error = issuer_listener(Some(at), Path::new("/nowhere"), None).unwrap_err();
        assert!(error.to_string().contains("[issuer]"), "{error}");
    }
}
