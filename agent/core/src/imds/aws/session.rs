//! Sessions (IMDSv2): the two headers. What a token is made of is the agent's affair; here it is text.
//! Must never: print a token.

use std::sync::Arc;

use super::TOKEN_HEADER;
use crate::http::RequestHead;
use crate::imds::{Malformed, Rebuilt};
use crate::secret::Secret;

/// Longest life of a session token, in seconds: six hours.
pub const TTL_MAX: u32 = 21_600;
/// Says how long it is to live; stands in the answer, too, without which the Rust and Go SDKs take no token.
pub const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Longest token that anyone may show, ours or the real service's, in bytes.
const TOKEN_LIMIT: usize = 1024;

/// What a caller shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Nothing: IMDSv1.
    None,
    /// This token, not looked at yet.
    Token(Secret<Arc<str>>),
}

impl Session {
    /// Of this head. That there is one header at most has been checked.
    pub(super) fn of(head: &RequestHead<'_>) -> Result<Self, Malformed> {
        let Some(value) = head.values(TOKEN_HEADER).next() else {
            return Ok(Self::None);
        };
        let visible = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(value).ok();
        // An empty one is a token that is wrong, not a request without: a broken client must not fall back unseen.
        let text = text.filter(|_| visible && value.len() <= TOKEN_LIMIT);
        text.map(|text| Self::Token(Secret::new(text.into())))
            .ok_or(Malformed::SessionToken)
    }

    /// The token that is shown.
    pub fn token(&self) -> Option<&Secret<Arc<str>>> {
        match self {
            Self::None => None,
            Self::Token(token) => Some(token),
        }
    }
}

/// The request for a session token of our own, from the real service.
pub fn request(ttl: u32) -> Rebuilt {
    Rebuilt {
        method: "PUT",
        target: super::TOKEN_PATH.to_owned(),
        headers: vec![(TTL_HEADER.to_owned(), ttl.to_string())],
        secret: None,
    }
}

/// How long the token is to live that a PUT asks for.
pub(super) fn ttl(head: &RequestHead<'_>) -> Result<u32, Malformed> {
    let value = head
        .values(TTL_HEADER)
        .next()
        .ok_or(Malformed::SessionTtl)?;
    let digits = std::str::from_utf8(value).ok();
    // No sign, no space: what `parse` takes beyond digits.
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|ttl| (1..=TTL_MAX).contains(ttl))
        .ok_or(Malformed::SessionTtl)
}
