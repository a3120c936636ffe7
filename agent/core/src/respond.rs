//! The one table that turns outcomes into responses.
//!
//! Owns: statuses, headers, and the words that a caller reads. Must never: show internals (rules, paths, uids, upstream
//! addresses, errors of libraries), reflect input, or say "unreachable": Python's and JavaScript's SDKs take a 403 with
//! that word for "no metadata service here" and go on to the next credential source without telling anyone.

mod aws;
mod azure;
mod gcp;
mod status;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;

use crate::decision::{Denial, DenyReason};
use crate::http::Violation;
use crate::imds::{Malformed, Service};

pub use gcp::moved;
pub use status::reason_phrase;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// JSON for the caller: an emulated answer, or a token.
    Json(&'a str),
    /// Text for the caller.
    Text(&'a str),
    /// Bytes for the caller that are nothing we know.
    Octets(&'a [u8]),
    /// AWS: a session token.
    Session {
        /// The token. A value that leaves here.
        token: &'a str,
        /// How long it lives, in seconds.
        ttl: u32,
    },
    /// AWS: the session token isn't the caller's, was altered, or has expired.
    Unauthorized,
    /// The head broke HTTP's rules. The connection closes.
    Violation(Violation),
    /// The request broke its dialect's rules.
    Malformed(Malformed),
    /// Policy said no.
    Denied(&'a Denial),
    /// There is no record of who connected, or the caller isn't any longer who it was: no policy was asked.
    Unserved(DenyReason),
    /// Allowed, and nothing here can answer it.
    NotServed,
    /// A leaf of the instance document, asked for as JSON.
    LeafNeedsText,
    /// Over its rule's rate limit, or the cloud's.
    Throttled {
        /// When to come back, in seconds.
        retry_after: u32,
    },
    /// The real service, or the issuer's guard, can't be reached.
    UpstreamAway,
    /// It took too long.
    UpstreamSlow,
    /// It answered something that isn't an answer.
    UpstreamBroken,
    /// A cloud's token endpoint, asked for the caller, gave nothing.
    NotGiven(NotGiven<'a>),
    /// Something failed here.
    Internal,
}

/// Why a token endpoint gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotGiven<'a> {
    /// It says no to the identity that the caller's grant names.
    Refused {
        /// The cloud's own word; shown where it is one word.
        code: &'a str,
    },
    /// It can't be reached.
    Away,
    /// It took too long.
    Slow,
    /// It answered something that isn't an answer.
    Broken,
}

impl NotGiven<'_> {
    /// A refusal stops every client at once; the others are tried again.
    const fn status(&self) -> u16 {
        match self {
            Self::Refused { .. } => 403,
            Self::Away | Self::Broken => 502,
            Self::Slow => 504,
        }
    }
}

/// A response, complete but for `Date` and `Connection: keep-alive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Headers, `Content-Length` included.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// Body.
    pub body: Vec<u8>,
    /// Whether the connection must close after it (`Connection: close` is then among the headers).
    pub close: bool,
}

/// The response to an outcome, in the words of the service that was dialled.
pub fn respond(service: Service, outcome: &Outcome<'_>) -> Response {
    match service {
        Service::AwsImds => aws::respond(aws::Shape::Imds, outcome),
        Service::AwsContainer => aws::respond(aws::Shape::Container, outcome),
        Service::AzureImds | Service::AzureWireserver => azure::respond(outcome),
        Service::GcpMetadata | Service::GcpMtls => gcp::respond(outcome),
    }
}

impl Response {
    /// The same, as the last answer of its connection: it says so.
    #[must_use]
    pub fn last(mut self) -> Self {
        if !self.close {
            self.headers.push(("Connection", "close".into()));
            self.close = true;
        }
        self
    }

    /// The response as bytes, for a connection whose HTTP library has to be left out: after a violation.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\n",
            self.status,
            reason_phrase(self.status)
        );
        for (name, value) in &self.headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}
