//! Whose connections an operator has ended. A connection asks with the workloads that are on it then, so that one which nobody
//! has been attested on goes on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Numbered words of operators, the last of each workload. The guard lets through names of the policy alone, so there are few.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    number: Cell<u64>,
    all: Cell<u64>,
    of: RefCell<HashMap<Arc<str>, u64>>,
    told: watch::Sender<()>,
}

impl Revoked {
    /// Ends the connections of `workload`, or all.
    pub(crate) fn revoke(&self, workload: Option<&Arc<str>>) {
        let number = self.number.get() + 1;
        self.number.set(number);
        match workload {
            Some(name) => drop(self.of.borrow_mut().insert(Arc::clone(name), number)),
            None => self.all.set(number),
        }
        self.told.send_replace(());
    }

    /// Waits until a word that comes from now on reaches a connection of these workloads.
    pub(crate) async fn reaches(&self, names: impl Fn() -> Vec<Arc<str>>) {
        let begun = self.number.get();
        let mut told = self.told.subscribe();
        // It is never closed while we are there.
        while told.changed().await.is_ok() {
            let of = self.of.borrow();
            let last = |name: &Arc<str>| of.get(name).copied().unwrap_or(0);
            if self.all.get() > begun || names().iter().any(|name| last(name) > begun) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_word_reaches_whom_it_names_and_nobody_who_comes_later() {
        let revoked = Revoked::default();
        let (billing, web): (Arc<str>, Arc<str>) = ("billing".into(), "web".into());
        let mut context = Context::from_waker(Waker::noop());
        let mut ends = |future: std::pin::Pin<&mut dyn Future<Output = ()>>| {
            future.poll(&mut context).is_ready()
        };
        let mut a = pin!(revoked.reaches(|| vec![Arc::clone(&billing)]));
        let mut b = pin!(revoked.reaches(|| vec![Arc::clone(&web)]));
        let mut nobody = pin!(revoked.reaches(Vec::new));
        assert!(!ends(a.as_mut()) && !ends(b.as_mut()) && !ends(nobody.as_mut()));
        // The second word doesn't hide the first.
        revoked.revoke(Some(&billing));
        revoked.revoke(Some(&"other".into()));
        assert!(ends(a.as_mut()) && !ends(b.as_mut()) && !ends(nobody.as_mut()));
        let mut later = pin!(revoked.reaches(|| vec![Arc::clone(&billing)]));
        assert!(!ends(later.as_mut()));
        revoked.revoke(None);
        assert!(ends(later.as_mut()) && ends(b.as_mut()) && ends(nobody.as_mut()));
    }
}
