//! The listeners of all network namespaces but our own, as the proxy gets them: each new one, and all of them when a proxy
//! begins. Which there are is up to [`crate::intercept::namespaces`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::seam::Seam;
use crate::intercept::{Change, Listeners, Namespaces};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Spaces {
    namespaces: Namespaces,
    open: BTreeMap<u64, Arc<Listeners>>,
}

impl Spaces {
    pub(super) fn new(namespaces: Namespaces) -> Self {
        Self {
            namespaces,
            open: BTreeMap::new(),
        }
    }

    /// The next change. Cancel safe.
    pub(super) async fn next(&mut self) -> Change {
        self.namespaces.next().await
    }

    /// Takes a change, and tells the proxy of what is new.
    pub(super) fn changed(&mut self, change: Change, seam: Option<&mut Seam>) {
        match change {
            Change::Opened(listeners) => {
                if let Some(seam) = seam {
                    seam.offer(Arc::clone(&listeners));
                }
                self.open.insert(listeners.netns_cookie, listeners);
            }
            Change::Closed { netns_cookie } => {
                if let Some(seam) = seam {
                    seam.withdraw(netns_cookie);
                }
                self.open.remove(&netns_cookie);
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Listeners>> {
        self.open.values()
    }

    /// Hands all of them to a proxy that begins.
    pub(super) fn offer_all(&self, seam: Option<&mut Seam>) {
        if let Some(seam) = seam {
            self.open.values().for_each(|l| seam.offer(Arc::clone(l)));
        }
    }
}
