//! The one door: `cargo xtask <verb>`.
fn main() {}
