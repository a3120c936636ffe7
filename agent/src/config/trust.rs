//! The file of trust roots that a policy rests on. Never accepts one in which nobody is trusted: every exchange would fail, one by
//! one, later.

use std::path::Path;
use std::sync::Arc;

use imds_guard_core::policy::{Compiled, Diagnostics, Settings, Source};

use crate::outbound::trust;

/// Reads it with `read`, where the policy needs one.
///
/// # Errors
/// Why it can't be used, at the place that names or needs it.
pub fn roots(
    compiled: &Compiled,
    read: impl FnOnce(&Path) -> Result<String, String>,
) -> Result<Option<Arc<str>>, Diagnostics> {
    roots_of(&compiled.settings, &compiled.warnings.sources, read)
}

/// The same of settings alone. `sources`: those that were compiled.
///
/// # Errors
/// As [`roots`].
pub fn roots_of(
    settings: &Settings,
    sources: &[Source],
    read: impl FnOnce(&Path) -> Result<String, String>,
) -> Result<Option<Arc<str>>, Diagnostics> {
    let Some(configured) = &settings.trust else {
        return Ok(None);
    };
    let refused = |why: &str| configured.refused(sources, why);
    let path = Path::new(&*configured.roots);
    let pem = read(path).map_err(|why| refused(&why))?;
    match trust::roots(&pem) {
        Ok(_) => Ok(Some(pem.into())),
        Err(error) => Err(refused(&format!("{}: {error}", path.display()))),
    }
}
