//! Rendered parts of documents, kept as bytes: the same few paths are read over and over. One per policy, so nothing of an
//! older policy can be answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use hyper::body::Bytes;
use imds_guard_core::policy::Document;

/// Parts kept. A caller that reads ever other paths only makes the others' be rendered again.
const KEPT: usize = 256;

/// Of one document, by canonical target.
type Parts = HashMap<String, (bool, Bytes)>;

/// The rendered parts of each document: whether JSON, and the bytes.
#[derive(Debug, Default)]
pub(crate) struct Ready(RefCell<HashMap<Arc<str>, Parts>>);

impl Ready {
    /// What is kept for this canonical target.
    pub(crate) fn get(&self, document: &Document, target: &str) -> Option<(bool, Bytes)> {
        self.0.borrow().get(&document.name)?.get(target).cloned()
    }

    /// Keeps a part.
    pub(crate) fn keep(&self, document: &Document, target: String, part: (bool, Bytes)) {
        let mut all = self.0.borrow_mut();
        let parts = all.entry(Arc::clone(&document.name)).or_default();
        if parts.len() >= KEPT {
            parts.clear();
        }
        parts.insert(target, part);
    }
}
