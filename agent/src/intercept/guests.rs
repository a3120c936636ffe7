//! Guests, and all other traffic that only passes through this host: no `connect()` of ours sees it, so what tells who it is
//! is where its packets come in. A guest is an interface, a tap or a port of a bridge, that the configuration gives an id.
//!
//! [`mapping`] says which guests are there; each gets [`listen`]ers of its own, bound to its interface on a port of its own;
//! [`rules`] redirect to that port what comes in there for a guarded endpoint, and let nothing else near it. So an accepted
//! socket's own port and interface say which guest it is ([`Guests::of`]), whatever source address its packets bear.
//!
//! Looked at again whenever interfaces change; put back whenever somebody else has changed our rules ([`watch`]).
//! Must never: remove the rules at the guard's end; take a guest's word, or its address, for who it is.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::policy::settings::Guest;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::time::{Instant, sleep_until};

use super::GuardedEndpoint;
use super::nft::{self, NftError};
use crate::caller;
use crate::sys::sockopt;

mod links;
mod listen;
mod mapping;
mod noted;
mod rules;
mod watch;

pub(crate) use listen::dialled;
use mapping::Mapping;
pub use noted::Noted;
use rules::Served;
pub(crate) use watch::Change;

/// Guests that are served at once. Each costs a port and two descriptors in either process.
const LIMIT: usize = 256;
/// Changes of rules are looked at once in so long, however often they come.
const PACE: Duration = Duration::from_millis(200);
/// The families of our tables.
const FAMILIES: [&str; 2] = ["inet", "bridge"];

/// The guests of this host.
#[derive(Debug)]
pub(crate) struct Guests {
    watch: watch::Watch,
    netns_cookie: u64,
    standing: Vec<Standing>,
    used: BTreeSet<u16>,
    next: u32,
    /// What was asked for last, what of it is in force, and what the kernel made of that.
    wanted: String,
    script: String,
    listing: Vec<String>,
    faults: Vec<String>,
    not_before: Instant,
}

/// A guest that is there.
#[derive(Debug)]
struct Standing {
    key: u32,
    mapping: Mapping,
    listeners: listen::Listeners,
    /// Becomes readable when it is no longer there.
    gone: Arc<EventFd>,
}

/// The guest on an accepted socket.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) guest: caller::Guest,
    gone: Arc<EventFd>,
}

/// A guest to be served, for the proxy: its listeners.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) key: u32,
    pub(crate) id: &'a Arc<str>,
    pub(crate) interface: &'a Arc<str>,
    /// One or two.
    pub(crate) listeners: Vec<BorrowedFd<'a>>,
}

/// What an update changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// Keys of guests that are served from now on.
    pub(crate) opened: Vec<u32>,
    /// Keys of those that aren't any more.
    pub(crate) closed: Vec<u32>,
}

impl Found {
    /// A descriptor that becomes readable when this guest is no longer where it was.
    ///
    /// # Errors
    /// Without free descriptors.
    pub(crate) fn gone(&self) -> io::Result<OwnedFd> {
        self.gone.as_fd().try_clone_to_owned()
    }
}

impl Guests {
    /// Nobody yet, and nothing in force. Needs the runtime. The host's network namespace is the calling thread's.
    ///
    /// # Errors
    /// Without netlink.
    pub(crate) fn new(netns_cookie: u64) -> io::Result<Self> {
        Ok(Self {
            watch: watch::Watch::open()?,
            netns_cookie,
            standing: vec![],
            used: BTreeSet::new(),
            next: 1,
            wanted: String::new(),
            script: String::new(),
            listing: vec![],
            faults: vec![],
            not_before: Instant::now(),
        })
    }

    /// Makes what is in force equal to what the configuration and the host's interfaces say now. `endpoints`: those that are
    /// enforced; for others, guests are left alone.
    ///
    /// # Errors
    /// Where nft can't or doesn't: then no guest is served, and what was in force before still is.
    pub(crate) fn update(
        &mut self,
        configured: &[Guest],
        endpoints: &[GuardedEndpoint],
    ) -> Result<Update, NftError> {
        let (wanted, mut faults) = match links::all() {
            Ok(links) => mapping::map(configured, &links),
            Err(error) => (
                vec![],
                vec![format!(
                    "no guest is served: can't list the interfaces: {error}"
                )],
            ),
        };
        let wanted = if endpoints.is_empty() { vec![] } else { wanted };
        let mut update = Update::default();
        let stays = |standing: &Standing| wanted.iter().any(|w| w.is(&standing.mapping));
        let (stay, go): (Vec<_>, Vec<_>) = self.standing.drain(..).partition(stays);
        self.standing = stay;
        for mapping in wanted {
            self.stand(mapping, &mut update, &mut faults);
        }
        self.tell(faults);
        let applied = self.enforce(endpoints);
        // Only now: until the new rules stood, their ports were in use.
        for standing in go {
            standing.end();
            update.closed.push(standing.key);
        }
        if applied.is_err() {
            // Rules without which their ports say nothing.
            for standing in self.standing.drain(..) {
                standing.end();
                update.closed.push(standing.key);
            }
            update.opened.clear();
        }
        applied.map(|()| update)
    }

    /// Puts the rules back where somebody has changed them; whether that was so.
    ///
    /// # Errors
    /// Where nft can't.
    pub(crate) fn reassert(&mut self) -> Result<bool, NftError> {
        self.not_before = Instant::now() + PACE;
        if self.script.is_empty() || listings() == self.listing {
            return Ok(false);
        }
        // The listing to compare with stays what it was, for the script is the same: one taken now could show what somebody has
        // changed a moment after.
        nft::apply(&self.script)?;
        Ok(true)
    }

    /// The next change that may matter. Cancel safe.
    ///
    /// # Errors
    /// Where the kernel's notes can't be read.
    pub(crate) async fn changed(&self) -> io::Result<Change> {
        let change = self.watch.next().await?;
        if change == Change::Rules {
            sleep_until(self.not_before).await;
        }
        Ok(change)
    }

    /// Which guest `socket` is, by its own port and interface; none where it is no accepted socket of a guest's listener, or
    /// nothing was redirected, or its guest is no longer there.
    pub(crate) fn of(&self, socket: BorrowedFd<'_>) -> Option<Found> {
        let own = sockopt::local_port(socket).ok()??;
        let at = self.standing.iter().find(|s| s.listeners.port == own)?;
        let bound = sockopt::bound_interface(socket).ok()?;
        let ours = sockopt::netns_cookie(socket).ok()? == self.netns_cookie;
        let connected = sockopt::is_connected(socket).ok()?;
        if bound != at.mapping.ingress() || !ours || !connected {
            return None;
        }
        let guest = caller::Guest {
            key: at.key,
            id: Arc::clone(&at.mapping.id),
            interface: Arc::clone(&at.mapping.interface),
            dialled: dialled(socket).ok()?,
            address: sockopt::peer(socket).ok()?,
        };
        let gone = Arc::clone(&at.gone);
        Some(Found { guest, gone })
    }

    /// Everyone who is served, or those of `keys`.
    pub(crate) fn opened<'a>(
        &'a self,
        keys: Option<&'a [u32]>,
    ) -> impl Iterator<Item = Opened<'a>> {
        let wanted = move |s: &&Standing| keys.is_none_or(|keys| keys.contains(&s.key));
        self.standing.iter().filter(wanted).map(|s| Opened {
            key: s.key,
            id: &s.mapping.id,
            interface: &s.mapping.interface,
            listeners: std::iter::once(&s.listeners.v4)
                .chain(&s.listeners.v6)
                .map(AsFd::as_fd)
                .collect(),
        })
    }

    /// Who is served now, and what isn't as it should be, for `doctor`. `refused`: what nft said of the last update.
    pub(crate) fn noted(&self, refused: Option<&NftError>) -> Noted {
        let one = |s: &Standing| (s.mapping.id.to_string(), s.mapping.interface.to_string());
        let faults = self.faults.iter().cloned();
        Noted {
            served: self.standing.iter().map(one).collect(),
            faults: faults.chain(refused.map(ToString::to_string)).collect(),
        }
    }

    /// One more, or what changed about one that is there.
    fn stand(&mut self, mapping: Mapping, update: &mut Update, faults: &mut Vec<String>) {
        if let Some(same) = self.standing.iter_mut().find(|s| s.mapping.is(&mapping)) {
            same.mapping = mapping;
            return;
        }
        let fault =
            |why: String| format!("the guest at {} is not served: {why}", mapping.interface);
        if self.standing.len() >= LIMIT {
            faults.push(fault(format!("there are {LIMIT} already")));
            return;
        }
        let listeners = listen::Listeners::open(mapping.ingress(), &mut self.used);
        let gone = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        match (listeners, gone) {
            (Ok(listeners), Ok(gone)) => {
                let key = self.next;
                self.next += 1;
                update.opened.push(key);
                let gone = Arc::new(gone);
                self.standing.push(Standing {
                    key,
                    mapping,
                    listeners,
                    gone,
                });
            }
            (Err(error), _) => faults.push(fault(format!("can't listen there: {error}"))),
            (_, Err(errno)) => faults.push(fault(errno.to_string())),
        }
    }

    fn enforce(&mut self, endpoints: &[GuardedEndpoint]) -> Result<(), NftError> {
        let served: Vec<_> = self
            .standing
            .iter()
            .map(|s| Served {
                mapping: &s.mapping,
                port: s.listeners.port,
            })
            .collect();
        let wanted = match endpoints {
            [] if self.wanted.is_empty() && nft::program().is_err() => return Ok(()),
            [] => rules::removal(),
            _ => rules::script(endpoints, &served),
        };
        if wanted == self.wanted {
            return Ok(());
        }
        let in_force = match nft::apply(&wanted) {
            Ok(()) => wanted.clone(),
            Err(NftError::Refused(why)) if !endpoints.is_empty() => {
                // Where the kernel has no packet filter for bridges, the rest stands. Guests behind bridges aren't served then:
                // nothing marks their packets.
                let rest = rules::without_bridges(endpoints, &served);
                nft::apply(&rest)?;
                tracing::error!(
                    "frames that pass over bridges are not guarded, and no guest behind one is served: {why}"
                );
                rest
            }
            Err(error) => return Err(error),
        };
        (self.wanted, self.script) = (wanted, in_force);
        self.listing = listings();
        Ok(())
    }

    /// Each fault once, when it begins.
    fn tell(&mut self, faults: Vec<String>) {
        for fault in faults.iter().filter(|fault| !self.faults.contains(fault)) {
            tracing::warn!("{fault}");
        }
        self.faults = faults;
    }
}

impl Standing {
    fn end(&self) {
        self.listeners.close();
        if let Err(errno) = self.gone.write(1) {
            tracing::error!(%errno, "a guest that is gone can't be told so");
        }
    }
}

/// What the kernel has of ours now; nothing where it has none.
fn listings() -> Vec<String> {
    let listing = |family: &&str| nft::listing(family).unwrap_or_default();
    FAMILIES.iter().map(listing).collect()
}

/// Removes the rules, in the calling thread's network namespace. `false`: there were none, or no nft that could have made any.
///
/// # Errors
/// Where nft can't.
pub(crate) fn teardown() -> Result<bool, NftError> {
    let families = match nft::families() {
        Err(NftError::Missing) => return Ok(false),
        families => families?,
    };
    if !FAMILIES
        .iter()
        .any(|ours| families.iter().any(|family| family == ours))
    {
        return Ok(false);
    }
    nft::apply(&rules::removal())?;
    Ok(true)
}
