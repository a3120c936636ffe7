//! The token endpoint's parameters.
//! Must never: let two selectors through, or a value that a log line or an upstream could read otherwise than policy.

use std::sync::Arc;

use super::{ApiVersion, Malformed, query, value, version};
use crate::request::{AzureIdentity, CredentialAsk};
use crate::seam::{RESOURCE_LIMIT, SELECTOR_LIMIT};

/// `GET /metadata/identity/oauth2/token`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAsk {
    /// Version; any from 2018-02-01 on.
    pub api_version: ApiVersion,
    /// The audience that the caller wants, decoded, else as written: the answer echoes it byte for byte.
    pub resource: Arc<str>,
    /// Which identity, if the caller says so.
    pub selector: Option<AzureIdentity>,
    /// Whether a token from a cache won't do: `bypass_cache=true`, or a claims challenge named a token to replace.
    pub bypass_cache: bool,
    /// The authority to ask, for the real service alone.
    pub authority: Option<Arc<str>>,
    /// SHA-256 of a token that was rejected, in hexadecimal.
    pub token_sha256_to_refresh: Option<Arc<str>>,
    /// The client's capabilities.
    pub xms_cc: Option<Arc<str>>,
}

/// Every parameter that the endpoint knows. A name that differs from one of these in case alone is refused: we would
/// ignore it, and an upstream that ignores case would not.
const KNOWN: [&str; 10] = [
    "api-version",
    "resource",
    "client_id",
    "object_id",
    "msi_res_id",
    "mi_res_id",
    "authority",
    "bypass_cache",
    "token_sha256_to_refresh",
    "xms_cc",
];

impl TokenAsk {
    pub(super) fn parse(pairs: &query::Pairs) -> Result<Self, Malformed> {
        if let Some(name) = KNOWN.iter().find(|known| {
            pairs
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(known) && name != *known)
        }) {
            return Err(Malformed::Parameter { name });
        }
        let api_version = version::at_least(pairs, version::IDENTITY)?;
        let resource =
            text(pairs, "resource", RESOURCE_LIMIT)?.ok_or(Malformed::ResourceMissing)?;
        let token_sha256_to_refresh = sha256(pairs)?;
        Ok(Self {
            api_version,
            resource,
            selector: selector(pairs)?,
            bypass_cache: bypass_cache(pairs)? || token_sha256_to_refresh.is_some(),
            authority: text(pairs, "authority", RESOURCE_LIMIT)?,
            token_sha256_to_refresh,
            xms_cc: text(pairs, "xms_cc", SELECTOR_LIMIT)?,
        })
    }

    pub(super) fn credential(&self) -> CredentialAsk {
        CredentialAsk::AzureToken {
            resource: Arc::clone(&self.resource),
            selector: self.selector.clone(),
        }
    }

    pub(in crate::imds) fn push_query(&self, target: &mut String, pinned: Option<&AzureIdentity>) {
        query::push_pair(target, "api-version", &self.api_version.to_string());
        query::push_pair(target, "resource", &self.resource);
        match self.selector.as_ref().or(pinned) {
            None => {}
            Some(AzureIdentity::ClientId(id)) => query::push_pair(target, "client_id", id),
            Some(AzureIdentity::ObjectId(id)) => query::push_pair(target, "object_id", id),
            // IMDS's own spelling, whichever the caller used.
            Some(AzureIdentity::ResourceId(id)) => query::push_pair(target, "msi_res_id", id),
        }
        if let Some(authority) = &self.authority {
            query::push_pair(target, "authority", authority);
        }
        match &self.token_sha256_to_refresh {
            Some(hash) => query::push_pair(target, "token_sha256_to_refresh", hash),
            None if self.bypass_cache => query::push_pair(target, "bypass_cache", "true"),
            None => {}
        }
        if let Some(capabilities) = &self.xms_cc {
            query::push_pair(target, "xms_cc", capabilities);
        }
    }
}

fn selector(pairs: &query::Pairs) -> Result<Option<AzureIdentity>, Malformed> {
    let mut given = [
        ("client_id", AzureIdentity::ClientId as fn(Arc<str>) -> _),
        ("object_id", AzureIdentity::ObjectId),
        ("msi_res_id", AzureIdentity::ResourceId),
        // App Service's spelling; clients mix them up, and it can't mean anything else.
        ("mi_res_id", AzureIdentity::ResourceId),
    ]
    .into_iter()
    .filter(|(name, _)| value(pairs, name).is_some());
    let (first, more) = (given.next(), given.next());
    match (first, more) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Malformed::SeveralIdentities),
        (Some((name, identity)), None) => Ok(text(pairs, name, SELECTOR_LIMIT)?.map(identity)),
    }
}

/// Only `true` is a documented value; `false` says what is so anyway.
fn bypass_cache(pairs: &query::Pairs) -> Result<bool, Malformed> {
    match value(pairs, "bypass_cache") {
        None => Ok(false),
        Some(yes) if yes.eq_ignore_ascii_case("true") => Ok(true),
        Some(no) if no.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Malformed::Parameter {
            name: "bypass_cache",
        }),
    }
}

fn sha256(pairs: &query::Pairs) -> Result<Option<Arc<str>>, Malformed> {
    let name = "token_sha256_to_refresh";
    match text(pairs, name, 64)? {
        Some(hash) if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Err(Malformed::Parameter { name })
        }
        hash => Ok(hash),
    }
}

/// A value of visible ASCII, not empty, at most `limit` bytes.
fn text(
    pairs: &query::Pairs,
    name: &'static str,
    limit: usize,
) -> Result<Option<Arc<str>>, Malformed> {
    match value(pairs, name) {
        None => Ok(None),
        Some("") if name == "resource" => Err(Malformed::ResourceMissing),
        Some(text)
            if text.is_empty()
                || text.len() > limit
                || !text.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Err(Malformed::Parameter { name })
        }
        Some(text) => Ok(Some(text.into())),
    }
}
