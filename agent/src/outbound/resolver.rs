//! Names to addresses, without a file, a thread or bind(2): the host's own entries, else its resolvers, asked over connected
//! sockets, so that only they are heard. Both families at once, another resolver where one is silent, TCP where an answer is too
//! long; and what was found is remembered for as long as its records say.

mod ask;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::names::{Family, Found, Resolvers, in_hosts};
use imds_guard_core::seam::OutboundFiles;
use tokio::time::{Instant, timeout};

use super::race;

/// All that a name may cost of a budget. Who needs longer has it in its cache when it is asked again.
const LIMIT: Duration = Duration::from_millis(500);
/// How long the next resolver, or the same one again, is held back for one that is silent.
const PAUSE: Duration = Duration::from_millis(200);
/// How often each resolver is asked: datagrams get lost.
const ROUNDS: usize = 2;
/// How long the second family's answer is waited for once the first is there (RFC 8305).
const DELAY: Duration = Duration::from_millis(50);
/// The longest that anything is remembered: endpoints move.
const REMEMBERED: Duration = Duration::from_mins(1);
/// Names that are remembered. Names are the configuration's, so there are few.
const NAMES: usize = 256;

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// Nobody to ask.
    #[error(
        "/etc/hosts has no such name, and /etc/resolv.conf names no resolver: write a nameserver line"
    )]
    NoResolver,
    /// It isn't there.
    #[error("no such name, or no address behind it: is it written as it should be?")]
    NoSuchName,
    /// Nobody answers.
    #[error("no resolver of /etc/resolv.conf answered in time")]
    Silent,
    /// A resolver says that it can't.
    #[error("the resolver at {0} answered with {1}")]
    Fails(SocketAddr, &'static str),
    /// A resolver can't be asked.
    #[error("the resolver at {0} can't be asked: {1}")]
    Unreachable(SocketAddr, #[source] io::Error),
}

#[derive(Debug)]
pub(super) struct Resolver {
    resolvers: Resolvers,
    hosts: Arc<str>,
    remembered: RefCell<HashMap<Arc<str>, Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    addresses: Rc<[IpAddr]>,
    until: Instant,
}

impl Resolver {
    pub(super) fn new(files: &OutboundFiles) -> Self {
        let index = |name: &str| {
            let known = files.interfaces.iter();
            known.clone().find(|(n, _)| &**n == name).map(|(_, i)| *i)
        };
        let resolvers = Resolvers::read(&files.resolv_conf, index);
        for word in &resolvers.unreadable {
            tracing::warn!(
                nameserver = word,
                "not an address, or at no interface that is there: this line of /etc/resolv.conf is left out"
            );
        }
        Self::asking(resolvers, Arc::clone(&files.hosts))
    }

    pub(super) fn asking(resolvers: Resolvers, hosts: Arc<str>) -> Self {
        Self {
            resolvers,
            hosts,
            remembered: RefCell::default(),
        }
    }

    /// The addresses of `name`: at least one.
    pub(super) async fn resolve(&self, name: &Arc<str>) -> Result<Rc<[IpAddr]>, ResolveError> {
        let own = in_hosts(&self.hosts, name);
        if !own.is_empty() {
            return Ok(own.into());
        }
        if self.resolvers.servers.is_empty() {
            return Err(ResolveError::NoResolver);
        }
        let now = Instant::now();
        if let Some(known) = self.remembered.borrow().get(name)
            && now < known.until
        {
            return Ok(Rc::clone(&known.addresses));
        }
        let found = timeout(LIMIT, self.both(name)).await;
        let found = found.map_err(|_| ResolveError::Silent)??;
        if found.addresses.is_empty() {
            return Err(ResolveError::NoSuchName);
        }
        Ok(self.remember(name, found, now))
    }

    /// It led nowhere good.
    pub(super) fn forget(&self, name: &str) {
        self.remembered.borrow_mut().remove(name);
    }

    fn remember(&self, name: &Arc<str>, found: Found, now: Instant) -> Rc<[IpAddr]> {
        let addresses: Rc<[IpAddr]> = found.addresses.into();
        let life = Duration::from_secs(found.ttl.into()).min(REMEMBERED);
        let mut remembered = self.remembered.borrow_mut();
        if remembered.len() >= NAMES {
            remembered.retain(|_, known| now < known.until);
        }
        if remembered.len() < NAMES {
            let known = Remembered {
                addresses: Rc::clone(&addresses),
                until: now + life,
            };
            remembered.insert(Arc::clone(name), known);
        }
        addresses
    }

    /// Both families. Where one has addresses, the other gets a moment and no more.
    async fn both(&self, name: &str) -> Result<Found, ResolveError> {
        let mut v4 = pin!(self.ask(name, Family::V4));
        let mut v6 = pin!(self.ask(name, Family::V6));
        let (v4, v6) = tokio::select! {
            found = &mut v4 => {
                let other = meanwhile(&found, v6).await;
                (Some(found), other)
            }
            found = &mut v6 => (meanwhile(&found, v4).await, Some(found)),
        };
        match (v4, v6) {
            (Some(Ok(v4)), Some(Ok(v6))) => Ok(merged(&v6, &v4)),
            // A resolver that knows no AAAA is no reason to have no A.
            (Some(Ok(found)), _) | (_, Some(Ok(found))) if !found.addresses.is_empty() => Ok(found),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(error),
            (Some(Ok(found)), None) | (None, Some(Ok(found))) => Ok(found),
            (None, None) => Err(ResolveError::Silent),
        }
    }

    async fn ask(&self, name: &str, family: Family) -> Result<Found, ResolveError> {
        let over_tcp = self.resolvers.over_tcp;
        let servers = std::iter::repeat_n(&self.resolvers.servers, ROUNDS).flatten();
        let attempts = servers.map(|server| ask::ask(*server, over_tcp, name, family));
        let outcome = race::first(attempts, PAUSE).await;
        outcome.unwrap_or(Err(ResolveError::NoResolver))
    }
}

async fn meanwhile(
    first: &Result<Found, ResolveError>,
    other: impl Future<Output = Result<Found, ResolveError>>,
) -> Option<Result<Found, ResolveError>> {
    match first {
        Ok(found) if !found.addresses.is_empty() => timeout(DELAY, other).await.ok(),
        _ => Some(other.await),
    }
}

/// Those of both, in turns: where one family leads nowhere, the other's turn comes at once.
fn merged(v6: &Found, v4: &Found) -> Found {
    let mut addresses = vec![];
    for at in 0..v6.addresses.len().max(v4.addresses.len()) {
        addresses.extend(v6.addresses.get(at));
        addresses.extend(v4.addresses.get(at));
    }
    let ttls = [v6, v4].into_iter().filter(|f| !f.addresses.is_empty());
    Found {
        ttl: ttls.map(|found| found.ttl).min().unwrap_or(0),
        addresses,
    }
}
