//! What the two processes say to each other: one message per packet of a `SOCK_SEQPACKET` socket, descriptors by
//! `SCM_RIGHTS` beside it.
//!
//! Owns: the layouts, their bounds, their codec. Must never: let the guard parse what a caller wrote. The proxy is the
//! side that may have been taken over, so an [`Ask`] has a fixed layout, borrows from the packet, allocates nothing, and
//! anything out of place in it is an error. An [`Answer`] comes from the side that already holds all power, and is postcard.
//!
//! | ask | descriptors with it | answer | descriptors with that |
//! |---|---|---|---|
//! | `Attest` | the accepted socket | `Attested` or `Refused` | as [`Attested::fds`] says |
//! | `Sign` | the accepted socket | `Signed` or `Refused` | – |
//! | `Recheck` | the accepted socket | `Unchanged` or `Refused` | – |
//! | `Dial` | the accepted socket | `Dialling` or `Refused` | a socket |
//! | `Still` | the accepted socket | `Unchanged` or `Refused` | – |
//! | (none: pushed) | – | `Welcome` | one per [`Welcome::fds`], in that order |
//! | (none: pushed) | – | `Policy` | a sealed memfd holding [`PolicyFiles`] |
//! | (none: pushed) | – | `Issuer` | – |
//! | (none: pushed) | – | `Outbound` | a sealed memfd holding [`OutboundFiles`] |
//! | (none: pushed) | – | `Revoke` | – |
//! | (none: pushed) | – | `Listeners` | one per cookie, in that order |
//! | (none: pushed) | – | `Guests` | the listeners of each, in that order |

mod answer;
mod ask;
#[cfg(test)]
mod tests;

pub use answer::{
    Answer, Attested, AttestedFd, Guest, Guests, Issuer, Listeners, OutboundFiles, Policy,
    PolicyFiles, Process, Refusal, Signed, Subject, Welcome, WelcomeFd,
};
pub use ask::{Ask, SignAsk};

/// Version of all layouts. Both processes are the same binary; a mismatch means an upgrade caught half-way, and ends the seam.
pub const VERSION: u8 = 1;
/// Longest `resource` in a [`SignAsk`], in bytes. Entra's limit for an identifier URI is 255; a scope URI is about as long.
pub const RESOURCE_LIMIT: usize = 1024;
/// Longest identity selector in a [`SignAsk`], in bytes. ARM resource ids end at about 500.
pub const SELECTOR_LIMIT: usize = 1024;
/// Bytes before the strings of an [`Ask`].
pub const ASK_HEADER: usize = 16;
/// Longest [`Ask`], in bytes: the guard's receive buffer.
pub const ASK_LIMIT: usize = ASK_HEADER + RESOURCE_LIMIT + SELECTOR_LIMIT;
/// Longest [`Answer`], in bytes: the proxy's receive buffer. The largest is an issuer's key set (100 keys at most, Entra's limit).
pub const ANSWER_LIMIT: usize = 128 * 1024;
/// Longest [`PolicyFiles`], in bytes. 100,000 rules take about 20 MB.
pub const POLICY_LIMIT: usize = 64 * 1024 * 1024;

/// Longest [`OutboundFiles`], in bytes: all of their texts at their own limits.
pub const OUTBOUND_LIMIT: usize = 20 * 1024 * 1024;

/// A message that can't be what it says. On the guard's side: the proxy is broken or taken over, so drop the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeamError {
    /// Fewer bytes than the layout needs.
    #[error("message ends too early")]
    TooShort,
    /// More bytes than the bound allows.
    #[error("message is longer than its bound")]
    TooLong,
    /// Another version of the layout.
    #[error("message has another layout version")]
    Version,
    /// No such kind of message, or a reserved byte that isn't zero.
    #[error("message has an unknown kind")]
    Kind,
    /// A string's length is over its limit, or none where one must be.
    #[error("a string in the message has a bad length")]
    Length,
    /// A string isn't visible text.
    #[error("a string in the message is not visible text")]
    Text,
    /// Bytes are left over.
    #[error("message has trailing bytes")]
    Trailing,
    /// The answer's body doesn't decode.
    #[error("message body does not decode")]
    Body,
}
