//! imds-guard.
fn main() {}
