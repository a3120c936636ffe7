//! The keys of an identity that is federated.

use crate::policy::document::{AssertionEntry, FederationEntry};
use crate::policy::fields::Fields;

/// All of them, whatever the source is: where another source has one, compile says so.
pub(super) fn federation(t: &Fields<'_, '_>) -> FederationEntry {
    let assertion = t.get("assertion").and_then(|value| {
        let f = Fields::of(t.reader, value, "`assertion`")?;
        let entry = AssertionEntry {
            file: f.required("file", "\"/run/secrets/token\""),
        };
        f.finish();
        Some(t.at(value.span(), entry))
    });
    FederationEntry {
        authority: t.text("authority"),
        audience: t.text("audience"),
        provider: t.text("provider"),
        assertion,
    }
}
