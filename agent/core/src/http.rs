//! Bytes of a request head, checked strictly before anything interprets them.
//!
//! Owns: the [`Scanner`] behind the proxy's gate, its limits, the [`Violation`]s, and [`RequestHead`], the borrowed view
//! that a dialect parses. Must never: repair, guess, or skip. What two parsers could read in two ways is refused here, so
//! that nothing behind the gate ever sees it (request smuggling, attack 41; obs-fold, bare CR or LF, CL+TE, h2 preface).

mod head;
mod scanner;
#[cfg(test)]
mod tests;
mod violation;

pub use head::{Headers, RequestHead, ScannedHead, split};
pub use scanner::{Head, Scanner, Verdict};
pub use violation::Violation;

/// Longest head (request line, headers, blank line), in bytes. Real SDKs send under 1 KiB; 16 KiB is what common servers take.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Longest request target, in bytes. The longest honest one (a resource id and a resource URI) is under 1 KiB.
pub const TARGET_LIMIT: usize = 4 * 1024;
/// Longest header line without its CRLF, in bytes: the figure that the clouds' own agents use.
pub const HEADER_LIMIT: usize = 8 * 1024;
/// Most headers in a head. SDKs send about ten; 64 bounds the work of looking for duplicates.
pub const HEADERS_LIMIT: usize = 64;
/// Longest method, in bytes. `OPTIONS`, at 7, is the longest that gets a 405 anyone wants to read; 16 leaves room for WebDAV's.
pub const METHOD_LIMIT: usize = 16;
/// Longest request body, in bytes. The only bodies that metadata services take are short JSON (event approvals).
pub const BODY_LIMIT: u64 = 64 * 1024;
