//! The two endpoints that give credentials, and their parameters.
//! Must never: let through a value that a log line or the real service could read otherwise than policy.

use std::sync::Arc;

use super::tree::value;
use crate::imds::{Malformed, query};
use crate::request::CredentialAsk;
use crate::seam::RESOURCE_LIMIT;

/// Scopes in one request. Google's whole list is near three hundred; a caller asks for a few.
const SCOPES_LIMIT: usize = 64;

/// `…/token`: an access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAsk {
    /// `default`, or an e-mail address.
    pub account: Arc<str>,
    /// What it is to be good for; empty: all that there is.
    pub scopes: Vec<Arc<str>>,
    /// Whether it is to be bound to a certificate that the request's body brings.
    pub bound: bool,
}

/// `…/identity`: a signed statement of who the caller is, for one audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityAsk {
    /// `default`, or an e-mail address.
    pub account: Arc<str>,
    /// For whom.
    pub audience: Arc<str>,
    /// How much it says of the machine.
    pub format: Format,
    /// Whether it names the machine's licences.
    pub licenses: bool,
    /// Whether it is to be bound to a certificate that the request's body brings.
    pub bound: bool,
}

/// How much an identity token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing of the machine.
    Standard,
    /// Project, zone, instance.
    Full,
}

impl TokenAsk {
    pub(super) fn parse(
        account: &str,
        bound: bool,
        pairs: &query::Pairs,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            account: account.into(),
            scopes: scopes(value(pairs, "scopes").unwrap_or_default())?,
            bound,
        })
    }

    pub(super) fn credential(&self) -> CredentialAsk {
        CredentialAsk::GcpToken {
            account: Arc::clone(&self.account),
            scopes: self.scopes.clone(),
        }
    }

    pub(super) fn push_query(&self, target: &mut String, granted: &[Arc<str>]) {
        let scopes = if self.scopes.is_empty() {
            granted
        } else {
            &self.scopes
        };
        if !scopes.is_empty() {
            query::push_pair(target, "scopes", &scopes.join(","));
        }
    }
}

impl IdentityAsk {
    pub(super) fn parse(
        account: &str,
        bound: bool,
        pairs: &query::Pairs,
    ) -> Result<Self, Malformed> {
        let audience = value(pairs, "audience").unwrap_or_default();
        if audience.is_empty() {
            return Err(Malformed::AudienceMissing);
        }
        if audience.len() > RESOURCE_LIMIT || !audience.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Malformed::Parameter { name: "audience" });
        }
        let format = match value(pairs, "format") {
            None | Some("standard") => Format::Standard,
            Some("full") => Format::Full,
            Some(_) => return Err(Malformed::Parameter { name: "format" }),
        };
        let licenses = match value(pairs, "licenses") {
            None => false,
            Some(yes) if yes.eq_ignore_ascii_case("true") => true,
            Some(no) if no.eq_ignore_ascii_case("false") => false,
            Some(_) => return Err(Malformed::Parameter { name: "licenses" }),
        };
        Ok(Self {
            account: account.into(),
            audience: audience.into(),
            format,
            licenses,
            bound,
        })
    }

    pub(super) fn credential(&self) -> CredentialAsk {
        CredentialAsk::GcpIdentity {
            account: Arc::clone(&self.account),
            audience: Arc::clone(&self.audience),
        }
    }

    pub(super) fn push_query(&self, target: &mut String) {
        query::push_pair(target, "audience", &self.audience);
        if self.format == Format::Full {
            query::push_pair(target, "format", "full");
        }
        if self.licenses {
            query::push_pair(target, "licenses", "TRUE");
        }
    }
}

/// A list with commas, as every client writes it. An empty one is none.
fn scopes(text: &str) -> Result<Vec<Arc<str>>, Malformed> {
    if text.is_empty() {
        return Ok(vec![]);
    }
    let fault = Malformed::Parameter { name: "scopes" };
    let mut scopes: Vec<Arc<str>> = vec![];
    for scope in text.split(',') {
        if scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fault);
        }
        if !scopes.iter().any(|known| **known == *scope) {
            scopes.push(scope.into());
        }
    }
    if scopes.len() > SCOPES_LIMIT {
        return Err(fault);
    }
    Ok(scopes)
}
