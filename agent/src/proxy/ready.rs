//! Rendered parts of documents, kept as bytes: the same few paths are read over and over. One per policy, so nothing of an
//! older policy can be answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use imds_guard_core::imds::Call;
use imds_guard_core::policy::Document;

use super::reply::Form;

/// Parts kept. A caller that reads ever other paths only makes the others' be rendered again.
const KEPT: usize = 256;

/// A rendered part.
pub(crate) type Part = (Form, Bytes);

/// Of one document, by canonical target.
type Parts = HashMap<String, Part>;

/// The rendered parts of each document.
#[derive(Debug, Default)]
pub(crate) struct Ready(RefCell<HashMap<Arc<str>, Parts>>);

impl Ready {
    /// What is kept for this canonical target.
    pub(crate) fn get(&self, document: &Document, target: &str) -> Option<Part> {
        self.0.borrow().get(&document.name)?.get(target).cloned()
    }

    /// Keeps a part.
    pub(crate) fn keep(&self, document: &Document, target: String, part: Part) {
        let mut all = self.0.borrow_mut();
        let parts = all.entry(Arc::clone(&document.name)).or_default();
        if parts.len() >= KEPT {
            parts.clear();
        }
        parts.insert(target, part);
    }
}

/// What was read last on one connection. The document is the one that this request's own permit names: another policy has
/// another, and this one is held, so that what is compared can't be something else at the same place.
#[derive(Debug, Default)]
pub(crate) struct Served(RefCell<Option<Last>>);

/// Of which document, for which call.
type Last = (Arc<Document>, Rc<Call>, Part);

impl Served {
    /// The part, if it is the very document and call that it was kept for.
    pub(crate) fn part(&self, document: &Arc<Document>, call: &Rc<Call>) -> Option<Part> {
        let served = self.0.borrow();
        let (of, asked, part) = served.as_ref()?;
        (Arc::ptr_eq(of, document) && Rc::ptr_eq(asked, call)).then(|| part.clone())
    }

    /// Keeps it in place of what was kept.
    pub(crate) fn keep(&self, document: &Arc<Document>, call: &Rc<Call>, part: Part) {
        *self.0.borrow_mut() = Some((Arc::clone(document), Rc::clone(call), part));
    }
}
