//! Far ends: real HTTPS servers that stand under the names of the clouds' endpoints, where in a test the internet would be. An
//! [`Authority`] made for the test vouches for them; each request goes, parsed, to a closure that answers as the real service
//! would, down to its refusals; what was asked is kept.
//!
//! A crate of its own, because the agent's unit tests and the suites both stand on it. It opens no socket: whoever starts a
//! [`FarEnd`] gives it a listener, on loopback or in a test's own network namespace.
#![forbid(unsafe_code)]

mod authority;
mod message;
mod server;

pub use authority::{Authority, Credentials};
pub use message::{End, Reply, Request};
pub use server::FarEnd;
