//! What is said to clouds' token endpoints over HTTPS, and what they answer: who holds one credential gets a narrower one for
//! it, or another cloud's. Each codec is two functions, one from what is wanted to an [`Outgoing`], one from an answer's status
//! and body to [`Obtained`] or [`NotObtained`]. The proxy's outbound connections carry the bytes; nothing here knows how.
//!
//! An endpoint's words are those of a stranger: bounded and cleaned here ([`Said`]), before anybody sees them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;

mod bearer;
pub mod entra;
pub mod form;
pub mod google;
pub mod google_sts;
pub mod sigv4;
pub mod sts;
mod url;
pub mod web_identity;

pub use url::{NoUrl, Url};

/// A request to a token endpoint, whole. There is no way to say it in the clear: [`Url`] knows `https` alone.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// To whom.
    pub url: Url,
    /// What isn't secret. Neither `Host` nor `Content-Length` nor anything of the connection: those are the carrier's.
    pub headers: Vec<(&'static str, String)>,
    /// The one header that is: `Authorization`.
    pub secret: Option<(&'static str, Secret<Arc<str>>)>,
    /// May hold assertions, so it is secret as a whole.
    pub body: Secret<Vec<u8>>,
}

impl Outgoing {
    /// A form, as OAuth's token endpoints take it, which answer in JSON.
    fn oauth(url: &Url, form: form::Form) -> Self {
        Self {
            method: "POST",
            url: url.clone(),
            headers: vec![
                ("content-type", form::MEDIA_TYPE.to_owned()),
                ("accept", "application/json".to_owned()),
            ],
            secret: None,
            body: Secret::new(form.into_bytes()),
        }
    }
}

/// What an endpoint gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obtained {
    /// An access token or an identity token.
    Bearer {
        /// The token.
        token: Secret<Arc<str>>,
        /// Unix seconds at which it ends.
        expires: i64,
    },
    /// Keys of an AWS role.
    Aws(AwsKeys),
}

impl Obtained {
    /// Unix seconds at which it ends.
    pub const fn expires(&self) -> i64 {
        match self {
            Self::Bearer { expires, .. } => *expires,
            Self::Aws(keys) => keys.expires,
        }
    }
}

/// Temporary keys of an AWS role: to sign requests with, or to be given away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// Says which keys; stands in clear in each request and in CloudTrail.
    pub access_key_id: Arc<str>,
    /// Signs.
    pub secret_access_key: Secret<Arc<str>>,
    /// Goes with each request.
    pub session_token: Secret<Arc<str>>,
    /// Unix seconds at which they end.
    pub expires: i64,
    /// The account that they are of, where it was told.
    pub account: Option<Arc<str>>,
}

/// Why an endpoint gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotObtained {
    /// It says no to this identity, for a reason that lasts: trust, rights, what was asked for.
    #[error("refused with {code}: {message} ({remedy})")]
    Refused {
        /// The cloud's own word: `AccessDenied`, `PERMISSION_DENIED`, `invalid_grant`.
        code: Said,
        /// The cloud's own sentence.
        message: Said,
        /// What the operator can do.
        remedy: Cow<'static, str>,
    },
    /// Too many requests.
    #[error("throttled by the endpoint")]
    Throttled {
        /// For so many seconds, where it said so.
        retry_after: Option<u32>,
    },
    /// It can't serve anybody now, or asks to try again.
    #[error("the endpoint is not available (status {status})")]
    Unavailable {
        /// Of its answer.
        status: u16,
    },
    /// It says that it can't tell now, for a reason that may pass: it doesn't reach the assertion's issuer.
    #[error("not now, with {code}: {message} ({remedy})")]
    Unable {
        /// The cloud's own word.
        code: Said,
        /// The cloud's own sentence.
        message: Said,
        /// What the operator can do.
        remedy: Cow<'static, str>,
    },
    /// What came is no answer of such an endpoint.
    #[error("no answer of such an endpoint: {0}")]
    NotAnAnswer(&'static str),
}

impl NotObtained {
    /// Whether everybody else would fare the same for a while. A refusal is about one identity, and never is.
    pub const fn is_general(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// What a status means that doesn't depend on the endpoint's dialect: throttled, or not available.
    pub fn of_status(status: u16, retry_after: Option<u32>) -> Option<Self> {
        match status {
            429 => Some(Self::Throttled { retry_after }),
            503 if retry_after.is_some() => Some(Self::Throttled { retry_after }),
            500..=599 => Some(Self::Unavailable { status }),
            _ => None,
        }
    }
}

/// The longest of a cloud's words that anybody sees, in characters.
pub const SAID_CHARS: usize = 300;

/// Words of a cloud, bounded, on one line, and without characters that steer a terminal or hide in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Said(Arc<str>);

impl Said {
    /// Cleans `text`. Whatever isn't printable becomes a space, runs of spaces become one, and what is over
    /// [`SAID_CHARS`] is left out.
    pub fn new(text: &str) -> Self {
        let mut clean = String::new();
        let mut left = SAID_CHARS;
        for c in text.chars() {
            let c = if is_plain(c) { c } else { ' ' };
            if c == ' ' && (clean.is_empty() || clean.ends_with(' ')) {
                continue;
            }
            if left == 0 {
                clean.push('…');
                break;
            }
            clean.push(c);
            left -= 1;
        }
        Self(clean.trim_end().into())
    }

    /// The clean text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Neither control nor format character, nor a space that isn't one: those that turn text round or break lines are among them.
fn is_plain(c: char) -> bool {
    !(c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'))
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests;
