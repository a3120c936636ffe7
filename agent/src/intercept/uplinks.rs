//! Frames that leave by an uplink without a socket's egress having seen them: packet sockets, what the host only forwards,
//! frames that bypass the queueing discipline. Two layers, each where the machine has it: a tcx program on the interface
//! (`ebpf/src/uplink.rs`), and netfilter's rules ([`rules`]).
//!
//! Both outlive the guard, as everything in force does. Neither is needed for the socket layer to hold: what is missing is
//! said, and the rest stands.

use std::{
    fmt, fs, io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use imds_guard_ebpf::{Mode, Passage};
use nix::net::if_::if_indextoname;

use super::{GuardedEndpoint, bpf, nft};
use found::Interface;

mod found;
mod rules;
mod watch;

pub use watch::Watch;

/// The tcx links are pinned as this name, a dash, and the interface's number.
const LINK: &str = "uplink";

/// The family of netfilter's table for interfaces.
const FAMILY: &str = "netdev";

/// Both layers.
pub(super) struct Uplinks {
    pub(super) configured: Vec<Arc<str>>,
    /// Where links are pinned.
    pub(super) links: PathBuf,
    /// The verified program, or why there is none.
    pub(super) program: Result<OwnedFd, String>,
    pub(super) passage: Passage,
    /// What netfilter has; to know whether anything has changed.
    pub(super) applied: Option<String>,
    /// The same as nft prints it; to know whether somebody else has changed it.
    pub(super) listing: Option<String>,
    /// The pins of links that stand, and their interfaces.
    pub(super) standing: Vec<(PathBuf, u32)>,
}

/// Whether each stands; else why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) tcx: Result<(), String>,
    pub(super) netfilter: Result<(), String>,
}

impl Uplinks {
    /// Neither layer stands yet.
    pub(super) fn new(
        configured: Vec<Arc<str>>,
        links: PathBuf,
        program: Result<OwnedFd, String>,
        passage: Passage,
    ) -> Self {
        Self {
            configured,
            links,
            program,
            passage,
            applied: None,
            listing: None,
            standing: vec![],
        }
    }
}

impl fmt::Debug for Uplinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the passage.
        f.debug_struct("Uplinks").finish_non_exhaustive()
    }
}

/// None: packets carry nothing.
pub(super) const fn no_passage() -> Passage {
    Passage {
        mark: 0,
        priority: 0,
    }
}

/// A new one, where nft is there to know it; else none, for nobody would take it off the packets again.
pub(super) fn passage() -> Passage {
    let mut bytes = [0; 8];
    if nft::program().is_err() || aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return no_passage();
    }
    let [a, b, c, d, e, f, g, h] = bytes;
    Passage {
        mark: u32::from_ne_bytes([a, b, c, d]).max(1),
        priority: u32::from_ne_bytes([e, f, g, h]).max(1),
    }
}

impl Uplinks {
    /// Makes both layers what they should be, with the interfaces that are there now.
    pub(super) fn refresh(&mut self, endpoints: &[GuardedEndpoint]) -> Outcome {
        let enforced = endpoints.iter().filter(|e| e.mode == Mode::Enforce);
        let addresses: Vec<IpAddr> = enforced.map(|e| e.address.to_canonical()).collect();
        let interfaces = match found::uplinks(&addresses, &self.configured) {
            Ok(interfaces) => interfaces,
            Err(error) => {
                let why = format!("the interfaces can't be listed: {error}");
                return Outcome {
                    tcx: Err(why.clone()),
                    netfilter: Err(why),
                };
            }
        };
        let nowhere = self.nowhere(&addresses, &interfaces);
        Outcome {
            tcx: self.tcx(&interfaces).and_then(|()| nowhere.clone()),
            netfilter: self.netfilter(&interfaces, endpoints).and(nowhere),
        }
    }

    /// Whether somebody has taken away a link that stood: its pin, or itself. It goes with its interface, too, which is no loss.
    pub(super) fn lost_a_link(&self) -> bool {
        let is_on = |pin: &Path| bpf::open_pinned(pin).and_then(|l| bpf::link_interface(l.as_fd()));
        self.standing.iter().any(|(pin, index)| {
            !is_on(pin).is_ok_and(|on| on == *index) && if_indextoname(*index).is_ok()
        })
    }

    /// Whether netfilter has other rules than we have made; then they are made anew at the next refresh.
    pub(super) fn lost_its_rules(&mut self) -> bool {
        let lost = self.listing.is_some() && nft::listing(FAMILY).ok() != self.listing;
        if lost {
            self.applied = None;
        }
        lost
    }

    fn nowhere(&self, addresses: &[IpAddr], interfaces: &[Interface]) -> Result<(), String> {
        let there = |name: &&Arc<str>| interfaces.iter().any(|i| *i.name == ***name);
        if let Some(missing) = self.configured.iter().find(|name| !there(name)) {
            return Err(format!("the uplink {missing} isn't there (yet)"));
        }
        if addresses.is_empty() {
            return Err("no endpoint is enforced".into());
        }
        if interfaces.is_empty() {
            return Err("no uplink was found: name it in [hardening] uplinks".into());
        }
        Ok(())
    }

    /// A link on each Ethernet interface; pins of interfaces that are gone are removed.
    fn tcx(&mut self, interfaces: &[Interface]) -> Result<(), String> {
        self.standing.clear();
        let program = self.program.as_ref().map_err(Clone::clone)?;
        self.forget_gone(interfaces)
            .map_err(|error| format!("old links: {error}"))?;
        let mut outcome = Ok(());
        for interface in interfaces {
            let name = &interface.name;
            if !interface.ethernet {
                outcome = Err(format!("{name} isn't Ethernet"));
                continue;
            }
            let pin = self.links.join(format!("{LINK}-{}", interface.index));
            let put = put(program, interface.index, &pin);
            if put.is_ok() {
                self.standing.push((pin, interface.index));
            }
            if let Err(error) = put {
                let hint = match error.raw_os_error() {
                    Some(libc::EINVAL) => " (tcx is in Linux from 6.6)",
                    _ => "",
                };
                outcome = Err(format!("{name}: {error}{hint}"));
            }
        }
        outcome
    }

    fn forget_gone(&self, interfaces: &[Interface]) -> io::Result<()> {
        for entry in fs::read_dir(&self.links)?.flatten() {
            let name = entry.file_name();
            let Some(index) = name.to_str().and_then(|n| n.strip_prefix("uplink-")) else {
                continue;
            };
            if !interfaces.iter().any(|i| i.index.to_string() == index) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn netfilter(
        &mut self,
        interfaces: &[Interface],
        endpoints: &[GuardedEndpoint],
    ) -> Result<(), String> {
        if self.passage.mark == 0 {
            // Without the passage the proxy itself could not pass.
            return Err(nft::program().map_or_else(|e| e.to_string(), |_| NO_PASSAGE.into()));
        }
        let (odd, writable): (Vec<_>, Vec<_>) =
            interfaces.iter().cloned().partition(|i| !is_plain(&i.name));
        let script = match rules::body(&writable, endpoints, self.passage) {
            Some(body) => nft::replacing(FAMILY, &body),
            None if self.applied.is_none() => return Ok(()),
            None => nft::removing(FAMILY),
        };
        let indexes: Vec<u32> = writable.iter().map(|i| i.index).collect();
        let wanted = format!("{indexes:?}\n{script}");
        if self.applied.as_ref() != Some(&wanted) {
            nft::apply(&script).map_err(|error| error.to_string())?;
            self.applied = Some(wanted);
            self.listing = nft::listing(FAMILY).ok();
        }
        match odd.first() {
            Some(odd) => Err(format!("{:?} is no name for nft", odd.name)),
            None => Ok(()),
        }
    }
}

const NO_PASSAGE: &str =
    "there was no nft, or no random number, when the guard started: start it again";

/// The kernel lets an interface be called nearly anything; in a script of ours it stands between quotes.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

/// The program on that interface: behind the link that is there, or by a new one.
fn put(program: &OwnedFd, index: u32, pin: &Path) -> io::Result<()> {
    match bpf::open_pinned(pin) {
        // The number may be another interface's by now: then the link's is 0.
        Ok(link) if bpf::link_interface(link.as_fd())? == index => {
            return bpf::update_link(link.as_fd(), program.as_fd());
        }
        Ok(_) => fs::remove_file(pin)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = bpf::attach_tcx(program.as_fd(), index)?;
    bpf::pin(link.as_fd(), pin)
}

/// Takes netfilter's rules away from the calling thread's network namespace. `false`: there were none, or no nft that could
/// have made any.
pub(super) fn remove_table() -> Result<bool, nft::NftError> {
    if nft::program().is_err() || !nft::families()?.iter().any(|family| family == FAMILY) {
        return Ok(false);
    }
    nft::apply(&nft::removing(FAMILY))?;
    Ok(true)
}
