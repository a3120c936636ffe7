//! A network namespace with nothing but loopback, carrying the metadata addresses itself, and a mount namespace with a bpffs.
//!
//! Namespaces belong to threads, not processes: they are made on a thread of their own, held by descriptors, and entered on
//! a fresh thread for each piece of work ([`Namespaces::enter`]), so a test's own threads never change theirs.

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// The addresses that stand for the real services inside a world.
pub const ADDRESSES: [&str; 7] = [
    "169.254.169.254/32",
    "169.254.170.2/32",
    "169.254.170.23/32",
    "168.63.129.16/32",
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    "fd20:ce::254/128",
];

/// Interfaces that the harness makes begin so; no machine's own do.
pub(crate) const INSIDE: &str = "tw-";

/// A pair of namespaces that live as long as this value (and whatever still runs in them).
#[derive(Debug)]
pub(crate) struct Namespaces {
    net: File,
    mount: File,
}

impl Namespaces {
    /// Make both; bpffs is mounted at `bpffs`. The metadata addresses are here where `metadata` says so.
    pub(crate) fn create(bpffs: &Path, metadata: bool) -> Result<Self> {
        on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .context("unshare: namespaces need root")?;
            // Whatever is mounted from here on is seen by nobody else.
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .context("make / private")?;
            mount(
                Some("bpf"),
                bpffs,
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .context("mount bpffs")?;
            own_names()?;
            ip(&["link", "set", "lo", "up"])?;
            if metadata {
                add_metadata_addresses()?;
            }
            refuse_a_way_out()?;
            let open = |path| File::open(path).with_context(|| format!("open {path}"));
            Ok(Self {
                net: open("/proc/thread-self/ns/net")?,
                mount: open("/proc/thread-self/ns/mnt")?,
            })
        })
    }

    /// Run `work` on a thread inside both namespaces. Threads and processes that it starts are inside, too.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_new_thread(|| {
            setns(&self.net, CloneFlags::CLONE_NEWNET).context("setns net")?;
            // A mount namespace can't be changed while root and working directory are shared with other threads.
            unshare(CloneFlags::CLONE_FS).context("unshare fs")?;
            setns(&self.mount, CloneFlags::CLONE_NEWNS).context("setns mnt")?;
            refuse_a_way_out()?;
            work()
        })
    }
}

/// Namespaces with a name (`ip netns add`) are seen by whoever shares this directory, an agent under test among them: it must
/// find none of the machine's.
fn own_names() -> Result<()> {
    let names = Path::new("/run/netns");
    fs::create_dir_all(names).context("/run/netns")?;
    let none = None::<&str>;
    mount(Some("tmpfs"), names, Some("tmpfs"), MsFlags::empty(), none).context("mount /run/netns")
}

pub(crate) fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn identity(namespace: &str) -> Result<std::path::PathBuf> {
    fs::read_link(namespace).with_context(|| format!("read {namespace}"))
}

/// The real services' addresses, on this thread's loopback.
pub(crate) fn add_metadata_addresses() -> Result<()> {
    for address in ADDRESSES {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let mut words = vec![family, "address", "add", address, "dev", "lo"];
        if family == "-6" {
            // Nobody else is there to have it: to be bound at once, it isn't asked about.
            words.push("nodad");
        }
        ip(&words)?;
    }
    Ok(())
}

/// `ip` in the calling thread's network namespace.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("ip (iproute2) is needed: cargo xtask setup")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The one check that everything rests on: nothing leads out of here. `/proc/net` would be the main thread's view; this is ours.
pub(crate) fn refuse_a_way_out() -> Result<()> {
    // A process' first thread never moves.
    if identity("/proc/thread-self/ns/net")? == identity("/proc/self/ns/net")? {
        bail!("still in the network namespace that we came from: refusing to go on");
    }
    let table =
        fs::read_to_string("/proc/thread-self/net/dev").context("/proc/thread-self/net/dev")?;
    for name in table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
    {
        if name != "lo" && !name.starts_with(INSIDE) {
            bail!(
                "the interface {name} might lead out of this network namespace: refusing to go on"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_namespace_is_refused() {
        assert!(refuse_a_way_out().is_err());
    }
}
