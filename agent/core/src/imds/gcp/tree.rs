//! How a part of the tree is asked for: whole or not, in which form, and whether the caller waits for it to change.

use std::sync::Arc;

use crate::imds::{Malformed, query};

/// A read of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeAsk {
    /// Whether the caller wrote a slash at the end: a directory without one is elsewhere, and only the tree knows what is one.
    pub slash: bool,
    /// Everything below it, too.
    pub recursive: bool,
    /// In which form, where the caller says so.
    pub form: Option<Form>,
    /// Whether, and how long, the caller waits for it to change.
    pub wait: Option<Wait>,
}

/// `wait_for_change=true`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Seconds, after which what is there is answered; at most [`WAIT_LIMIT`].
    pub timeout: u32,
    /// What the caller has. Anything else is answered at once.
    pub last_etag: Option<Arc<str>>,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `alt=json`
    Json,
    /// `alt=text`
    Text,
}

/// The longest that a caller waits, in seconds. The real server lets one wait for ever; here somebody else's connection waits
/// for a place meanwhile. Who gets an unchanged value asks again: that is how every client is written.
pub const WAIT_LIMIT: u32 = 100;
/// Longest etag. The real ones have 16 digits.
const ETAG_LIMIT: usize = 64;

/// Every parameter that means something here. A name that differs from one of these in case alone is refused: we would ignore
/// it, and a server that ignores case would not.
pub(super) const KNOWN: [&str; 9] = [
    "recursive",
    "alt",
    "wait_for_change",
    "timeout_sec",
    "last_etag",
    "scopes",
    "audience",
    "format",
    "licenses",
];

/// The pairs of a query, names in their one spelling.
pub(super) fn pairs(raw: &str) -> Result<query::Pairs, Malformed> {
    let pairs = query::parse(raw)?;
    let respelled = KNOWN.iter().find(|known| {
        let mut names = pairs.iter().map(|(name, _)| name);
        names.any(|name| name.eq_ignore_ascii_case(known) && name != *known)
    });
    match respelled {
        Some(name) => Err(Malformed::Parameter { name }),
        None => Ok(pairs),
    }
}

pub(super) fn value<'a>(pairs: &'a query::Pairs, name: &str) -> Option<&'a str> {
    let mut pairs = pairs.iter();
    pairs
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

/// cloud-init writes `True`. What is neither yes nor no might be either for the server.
fn flag(pairs: &query::Pairs, name: &'static str) -> Result<bool, Malformed> {
    match value(pairs, name) {
        None => Ok(false),
        Some(yes) if yes == "1" || yes.eq_ignore_ascii_case("true") => Ok(true),
        Some(no) if no == "0" || no.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Malformed::Parameter { name }),
    }
}

pub(super) fn is_recursive(pairs: &query::Pairs) -> Result<bool, Malformed> {
    flag(pairs, "recursive")
}

impl TreeAsk {
    pub(super) fn parse(slash: bool, pairs: &query::Pairs) -> Result<Self, Malformed> {
        let form = match value(pairs, "alt") {
            None => None,
            Some("json") => Some(Form::Json),
            Some("text") => Some(Form::Text),
            Some(_) => return Err(Malformed::Parameter { name: "alt" }),
        };
        let wait = flag(pairs, "wait_for_change")?;
        Ok(Self {
            slash,
            recursive: is_recursive(pairs)?,
            form,
            wait: wait.then(|| Wait::parse(pairs)).transpose()?,
        })
    }

    pub(super) fn push_query(&self, target: &mut String) {
        push_slash(target, self.slash);
        if self.recursive {
            query::push_pair(target, "recursive", "true");
        }
        match self.form {
            None => {}
            Some(Form::Json) => query::push_pair(target, "alt", "json"),
            Some(Form::Text) => query::push_pair(target, "alt", "text"),
        }
        if let Some(wait) = &self.wait {
            query::push_pair(target, "wait_for_change", "true");
            query::push_pair(target, "timeout_sec", &wait.timeout.to_string());
            if let Some(etag) = &wait.last_etag {
                query::push_pair(target, "last_etag", etag);
            }
        }
    }
}

impl Wait {
    fn parse(pairs: &query::Pairs) -> Result<Self, Malformed> {
        let timeout = match value(pairs, "timeout_sec") {
            None => WAIT_LIMIT,
            Some(seconds) if !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit()) => {
                // More digits than a number has are more than the limit.
                seconds.parse().unwrap_or(WAIT_LIMIT).min(WAIT_LIMIT)
            }
            Some(_) => {
                return Err(Malformed::Parameter {
                    name: "timeout_sec",
                });
            }
        };
        let last_etag = match value(pairs, "last_etag") {
            None => None,
            Some(etag)
                if !etag.is_empty()
                    && etag.len() <= ETAG_LIMIT
                    && etag.bytes().all(|b| b.is_ascii_alphanumeric()) =>
            {
                Some(etag.into())
            }
            Some(_) => return Err(Malformed::Parameter { name: "last_etag" }),
        };
        Ok(Self { timeout, last_etag })
    }
}

/// The slash that the caller wrote. `/` has its own.
pub(super) fn push_slash(target: &mut String, slash: bool) {
    if slash && !target.ends_with('/') {
        target.push('/');
    }
}
