//! Which workloads, and which selective denies, a caller's selectors match. The law of evidence lives here: an allow needs
//! every selector present, a deny takes an unavailable one for present.

use std::sync::Arc;

use super::Identity;
use super::effort;
use super::pattern::Bindings;
use super::set::{Alternative, PolicySet};
use crate::selector::Selectors;

/// What the policy makes of one caller: found once per process and epoch, used for every request of it.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    pub(crate) matched: Vec<Matched>,
    /// Workloads that it might match, were all evidence at hand. They grant nothing; a request for which they would
    /// give another identity than a matching one is ambiguous.
    pub(crate) possible: Vec<u32>,
    /// Selective denies that hold for it.
    pub(crate) denies: Vec<u32>,
}

/// One workload that the caller matches.
#[derive(Debug, Clone)]
pub(crate) struct Matched {
    pub(crate) workload: u32,
    pub(crate) name: Arc<str>,
    pub(crate) selectors: Arc<[Arc<str>]>,
    pub(crate) needs_recheck: bool,
    /// The `sub` claims of its templates, by identity.
    pub(crate) subjects: Subjects,
}

/// `sub` claims by identity.
type Subjects = Vec<(Arc<Identity>, Arc<str>)>;

impl Workload {
    /// Names of the workloads that the caller matches.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.matched.iter().map(|m| m.name.clone()).collect();
        // One that is matched with two `sub`s stands there twice, side by side.
        names.dedup();
        names
    }

    /// The selectors by which it matches them, as written in the policy.
    pub fn selectors(&self) -> impl Iterator<Item = &Arc<str>> {
        self.matched.iter().flat_map(|m| m.selectors.iter())
    }
}

/// How far an alternative matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    Full(Bindings),
    /// Everything that is known matches, and something isn't known; what the known binds.
    Possible(Bindings),
    No,
}

impl Alternative {
    pub(crate) fn matches(&self, caller: &Selectors) -> Match {
        effort::one();
        let mut bound = Bindings::default();
        let mut possible = false;
        for pattern in &self.patterns {
            if !pattern.matches(caller.present(pattern.key), &mut bound) {
                if !caller.is_unavailable(pattern.key) {
                    return Match::No;
                }
                possible = true;
            }
        }
        if possible {
            Match::Possible(bound)
        } else {
            Match::Full(bound)
        }
    }

    /// Whether some selector of it can't be attested by this version: then it is nobody's, rather than possibly everyone's.
    fn beyond_us(&self, caller: &Selectors) -> bool {
        let unknown = |key: crate::selector::Key| !key.attested() && !caller.0.contains_key(&key);
        self.patterns.iter().any(|p| unknown(p.key))
    }
}

impl PolicySet {
    /// Which workloads match this caller. Its cost does not grow with workloads that can't match.
    pub fn identify(&self, caller: &Selectors) -> Workload {
        let mut workload = Workload::default();
        let mut maybe: Vec<(u32, Subjects)> = vec![];
        let failed = |key| caller.0.contains_key(&key) && caller.is_unavailable(key);
        self.by_selector.candidates(caller, &failed, &mut |id| {
            let alternative = &self.alternatives[id as usize];
            match alternative.matches(caller) {
                Match::Full(bound) => self.add(&mut workload, alternative, &bound),
                Match::Possible(bound) if !alternative.beyond_us(caller) => {
                    maybe.push((alternative.owner, self.subjects(alternative, &bound)));
                }
                Match::Possible(_) | Match::No => {}
            }
        });
        let failed = |key| caller.is_unavailable(key);
        self.deny_by_selector
            .candidates(caller, &failed, &mut |id| {
                let alternative = &self.deny_alternatives[id as usize];
                if alternative.matches(caller) != Match::No {
                    workload.denies.push(alternative.owner);
                }
            });
        workload.matched.sort_unstable_by_key(|m| m.workload);
        workload.denies.sort_unstable();
        workload.denies.dedup();
        let Workload {
            matched, possible, ..
        } = &mut workload;
        // What it matches already is not in doubt, unless it might be another `sub` of the same workload.
        maybe.retain(|(w, subjects)| {
            let same = |m: &Matched| m.workload == *w && m.subjects == *subjects;
            !matched.iter().any(same)
        });
        possible.extend(maybe.into_iter().map(|(workload, _)| workload));
        workload
    }

    /// The `sub` claims that these bindings give; of a template whose variables aren't all bound, none.
    fn subjects(&self, alternative: &Alternative, bound: &Bindings) -> Subjects {
        let value = |variable: &str| {
            let found = bound.0.iter().find(|(name, _)| **name == *variable);
            found.map(|(_, value)| value.to_string())
        };
        let templates = &self.workloads[alternative.owner as usize].templates;
        let filled = templates.iter().filter_map(|(identity, template)| {
            Some((identity.clone(), template.fill(&value).text()?))
        });
        filled.collect()
    }

    fn add(&self, caller: &mut Workload, alternative: &Alternative, bound: &Bindings) {
        let rules = &self.workloads[alternative.owner as usize];
        let matched = Matched {
            workload: alternative.owner,
            name: rules.name.clone(),
            selectors: alternative.texts.clone(),
            needs_recheck: alternative.needs_recheck,
            subjects: self.subjects(alternative, bound),
        };
        let same = caller
            .matched
            .iter_mut()
            .find(|m| m.workload == matched.workload && m.subjects == matched.subjects);
        match same {
            // Another `sub` of a workload that it matches already stays beside it: deciding between them would be a guess.
            None => caller.matched.push(matched),
            // Of two alternatives the one that asks less of the process later, then the one that reads first.
            Some(old) => {
                let rank = |m: &Matched| (m.needs_recheck, m.selectors.clone());
                if rank(&matched) < rank(old) {
                    *old = matched;
                }
            }
        }
    }
}
