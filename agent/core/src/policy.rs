//! Policy: files in, decisions out.

use std::sync::Arc;

use crate::decision::Decision;
use crate::request::Request;
use crate::selector::Selectors;

/// An identity that a rule hands out: `[identity.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Its name in the policy.
    pub name: Arc<str>,
}

/// A configured document for emulated metadata: `[document.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its name in the policy.
    pub name: Arc<str>,
    /// The JSON that stands under `/metadata/instance`.
    pub instance: serde_json::Value,
}

/// Everything that the files say, compiled and indexed. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct PolicySet {}

/// What the policy makes of one caller: found once per process and epoch, used for every request of it.
#[derive(Debug, Clone)]
pub struct Workload {}

impl PolicySet {
    /// Which workloads match this caller. Its cost does not grow with workloads that can't match.
    pub fn identify(&self, _caller: &Selectors) -> Workload {
        Workload {}
    }

    /// The verdict on one request. `now` is Unix time in seconds. Pure; its cost does not grow with rules that can't match.
    pub fn decide(&self, _caller: &Workload, _request: &Request, _now: i64) -> Decision {
        Decision::Deny(crate::decision::Denial {
            reason: crate::decision::DenyReason::NoWorkload,
            rule: None,
            workloads: vec![],
        })
    }
}
