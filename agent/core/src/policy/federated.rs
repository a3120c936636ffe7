//! What a workload is given by federation: for whoever has to set it up on the cloud's side.

use std::sync::Arc;

use super::Identity;
use super::federation::Federation;
use super::set::PolicySet;
use crate::request::Cloud;

/// One federated identity of a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Federated {
    /// The identity.
    pub identity: Arc<Identity>,
    /// How it is exchanged.
    pub federation: Arc<Federation>,
    /// The `sub` of its assertions; what differs from caller to caller stands in braces. None where the assertion is in a file.
    pub subject: Option<String>,
}

impl PolicySet {
    /// The federated identities of `cloud` that rules of `workload` name, each once. None where there is no such workload.
    pub fn federated(&self, workload: &str, cloud: Cloud) -> Option<Vec<Federated>> {
        let rules = self
            .workloads
            .iter()
            .find(|rules| *rules.name == *workload)?;
        let mut all: Vec<Federated> = vec![];
        for id in &rules.allows {
            let allow = &self.allows[*id as usize];
            let Some(identity) = allow.identity.as_ref().filter(|i| i.cloud == cloud) else {
                continue;
            };
            let Some(federation) = &identity.federation else {
                continue;
            };
            if all
                .iter()
                .any(|other| Arc::ptr_eq(&other.identity, identity))
            {
                continue;
            }
            let literal = allow.subject.as_deref().map(str::to_owned);
            let open = || {
                let mut own = rules.templates.iter();
                let (_, template) = own.find(|(of, _)| Arc::ptr_eq(of, identity))?;
                Some(template.shown())
            };
            all.push(Federated {
                identity: identity.clone(),
                federation: federation.clone(),
                subject: literal.or_else(open),
            });
        }
        Some(all)
    }
}
