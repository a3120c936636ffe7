//! Credential sources behind a permit.
