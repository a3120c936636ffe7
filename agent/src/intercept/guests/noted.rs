//! What the guard leaves in its run directory about guests, for `doctor`. Nothing rests on it.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Which guests are served, and what isn't as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Noted {
    /// Each that is served: its id and interface.
    pub served: Vec<(String, String)>,
    /// What keeps others from being served, or traffic that only passes through from being guarded.
    pub faults: Vec<String>,
}

impl Noted {
    const FILE: &'static str = "guests.json";

    /// Leaves it there.
    pub(crate) fn leave(&self, run: &Path) {
        let path = run.join(Self::FILE);
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = std::fs::write(&path, text) {
            tracing::warn!(path = %path.display(), %error, "can't note the guests for doctor");
        }
    }

    /// What was left there; nothing where there is none that can be read.
    pub(crate) fn find(run: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(run.join(Self::FILE)).ok()?).ok()
    }
}
