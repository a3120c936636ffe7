//! Finds the alternatives that a caller can match at all: each stands under its most discriminating selector, so the cost
//! is that of the caller's own selectors, not of the policy's size. Finds candidates; whether they match is the caller's.

use std::collections::HashMap;
use std::sync::Arc;

use super::pattern::ValuePattern;
use super::set::Alternative;
use crate::selector::{Key, Selectors};

#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: Vec<PerKey>,
}

#[derive(Debug, Default)]
struct PerKey {
    exact: HashMap<Arc<str>, Vec<u32>>,
    /// Globs, by the literal segments that they begin with.
    prefix: HashMap<String, Vec<u32>>,
    /// Templates: every value is a candidate.
    any: Vec<u32>,
}

impl Index {
    pub(crate) fn new(alternatives: &[Alternative]) -> Self {
        let mut frequency: HashMap<(Key, &Arc<str>), usize> = HashMap::new();
        for pattern in alternatives.iter().flat_map(|a| &a.patterns) {
            if let ValuePattern::Exact(value) = &pattern.value {
                *frequency.entry((pattern.key, value)).or_default() += 1;
            }
        }
        let mut keys: Vec<PerKey> = vec![];
        keys.resize_with(Key::COUNT, PerKey::default);
        for (id, alternative) in (0..).zip(alternatives) {
            let rank = |pattern: &&super::pattern::SelectorPattern| match &pattern.value {
                ValuePattern::Exact(value) => {
                    frequency.get(&(pattern.key, value)).copied().unwrap_or(0)
                }
                ValuePattern::Variable { .. } => usize::MAX - 1024,
                ValuePattern::Glob(glob) => {
                    let literal = glob.literal_prefix().matches('/').count();
                    usize::MAX - 512 - literal.min(256)
                }
            };
            let Some(pattern) = alternative.patterns.iter().min_by_key(rank) else {
                continue;
            };
            let at = &mut keys[pattern.key as usize];
            match &pattern.value {
                ValuePattern::Exact(value) => at.exact.entry(value.clone()).or_default(),
                ValuePattern::Glob(glob) => at.prefix.entry(glob.literal_prefix()).or_default(),
                ValuePattern::Variable { .. } => &mut at.any,
            }
            .push(id);
        }
        Self { keys }
    }

    /// Calls `found` for each alternative whose indexing selector the caller may have.
    /// Where `failed` says that a key's evidence is missing, everything that stands under the key is a candidate.
    pub(crate) fn candidates(
        &self,
        caller: &Selectors,
        failed: &dyn Fn(Key) -> bool,
        found: &mut dyn FnMut(u32),
    ) {
        for (key, at) in Key::all().zip(&self.keys) {
            if at.is_empty() {
                continue;
            }
            if failed(key) {
                at.all().for_each(&mut *found);
                continue;
            }
            for value in caller.present(key) {
                at.of(value).for_each(&mut *found);
            }
        }
    }
}

impl PerKey {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.any.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        let listed = self.exact.values().chain(self.prefix.values()).flatten();
        listed.chain(&self.any).copied()
    }

    fn of(&self, value: &str) -> impl Iterator<Item = u32> {
        let exact = self.exact.get(value).into_iter().flatten();
        let globs = ancestors(value)
            .filter(|_| !self.prefix.is_empty())
            .filter_map(|path| self.prefix.get(path))
            .flatten();
        exact.chain(globs).chain(&self.any).copied()
    }
}

/// `/a/b` → `/a/b`, `/a`, and the empty prefix.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.trim_end_matches('/');
    std::iter::successors(Some(whole), |p| p.rfind('/').map(|at| &p[..at]))
}
