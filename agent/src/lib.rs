//! imds-guard.
