//! Azure's dialect; `agent/docs/imds-compat.md` says what is served, altered and refused, and from which source.
//!
//! Owns: which endpoints exist, what each takes, and the canonical spelling of their paths. Azure's node agents compare
//! paths without regard to case, so every name that we know is brought to its documented spelling before policy sees it;
//! otherwise `/metadata/Identity/…` would be something else for policy than for the upstream.
//! Must never: turn anything below `/metadata/identity` into a plain read, except `info`.

pub mod answer;
pub mod instance;
#[cfg(test)]
mod tests;
mod token;
pub mod version;
mod vocabulary;

use std::sync::Arc;

pub use token::TokenAsk;
pub use version::ApiVersion;

use super::{Arrival, Asked, Call, Malformed, Service, path, query};
use crate::http::RequestHead;
use crate::policy::Identity;
use crate::request::{AzureIdentity, Cloud, Request};

/// What a caller asks of Azure's metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `/metadata/identity/oauth2/token`
    Token(TokenAsk),
    /// `/metadata/versions`
    Versions,
    /// `/metadata/instance` and below.
    Instance(InstanceAsk),
    /// `/metadata/identity/info`
    IdentityInfo,
    /// Nothing that could be answered honestly from here (attested documents, load balancer, scheduled events, anything
    /// unknown, and the wireserver's own paths): forward it, or answer 404.
    ForwardOnly,
}

/// A part of the instance document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceAsk {
    /// Version of the schema.
    pub api_version: ApiVersion,
    /// Segments below `/metadata/instance`.
    pub path: Vec<String>,
    /// In which form.
    pub format: Format,
}

/// Form of an instance answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A subtree as JSON.
    Json,
    /// A leaf's value, or a listing.
    Text,
}

pub(super) fn parse(head: &RequestHead<'_>, arrival: &Arrival) -> Result<Call, Malformed> {
    let (raw_path, raw_query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let mut segments = path::segments(raw_path)?;
    vocabulary::canonicalise(&mut segments);
    let is_metadata = segments.first().is_some_and(|first| first == "metadata");
    let path: Arc<str> = path::join(&segments).into();
    let method = method(head.method, &path, arrival.service, is_metadata)?;
    let needs_header = is_metadata || arrival.service == Service::AzureImds;
    if needs_header && !has_metadata_header(head) {
        return Err(Malformed::MetadataHeaderMissing);
    }
    let mut pairs = query::parse(raw_query)?;
    let ask = if is_metadata {
        metadata(&segments, &mut pairs)?
    } else {
        Ask::ForwardOnly
    };
    // The wireserver's paths are each what they answer, and show nothing that has a path of its own.
    let subtree = needs_header && !vocabulary::is_leaf(&segments);
    Ok(Call {
        request: request(&ask, method, &path, subtree),
        asked: Asked::Azure(ask),
        method,
        path,
        query: pairs,
        headers: upstream_headers(head, needs_header),
    })
}

/// Path and query as they go upstream.
pub(super) fn target(call: &Call, ask: &Ask, pinned: Option<&Identity>) -> String {
    let mut target = path::encode(&call.path);
    if let Ask::Token(token) = ask {
        token.push_query(&mut target, pinned.and_then(selector).as_ref());
    } else {
        for (name, value) in &call.query {
            query::push_pair(&mut target, name, value);
        }
    }
    target
}

/// How the real service is told which identity it is to be.
fn selector(identity: &Identity) -> Option<AzureIdentity> {
    let client = identity.client_id.clone().map(AzureIdentity::ClientId);
    let object = || identity.object_id.clone().map(AzureIdentity::ObjectId);
    let resource = || identity.resource_id.clone().map(AzureIdentity::ResourceId);
    client.or_else(object).or_else(resource)
}

/// Certificates for proof-of-possession tokens, and whatever comes below `identity`: never offered, never forwarded.
fn is_as_strong_as_a_token(path: &str) -> bool {
    let below = path.strip_prefix("/metadata/identity");
    below.is_some_and(|below| {
        (below.is_empty() || below.starts_with('/')) && !matches!(below, "/oauth2/token" | "/info")
    })
}

/// GET everywhere; POST where a scheduled event is approved. The wireserver's own paths take both, and PUT for status.
fn method(
    method: &str,
    path: &str,
    service: Service,
    is_metadata: bool,
) -> Result<&'static str, Malformed> {
    if is_as_strong_as_a_token(path) {
        // Whoever posts there is told that there is nothing, and not that another method would do.
        return Ok("GET");
    }
    let allow = match path {
        "/metadata/scheduledevents" => "GET, POST",
        _ if service == Service::AzureWireserver && !is_metadata => "GET, POST, PUT",
        _ => "GET",
    };
    allow
        .split(", ")
        .find(|allowed| *allowed == method)
        .ok_or(Malformed::Method { allow })
}

/// waagent sends `True`, so the real service can't be comparing case.
fn has_metadata_header(head: &RequestHead<'_>) -> bool {
    head.values("metadata")
        .all(|value| value.eq_ignore_ascii_case(b"true"))
        && head.values("metadata").next().is_some()
}

fn metadata(segments: &[String], pairs: &mut query::Pairs) -> Result<Ask, Malformed> {
    if segments.iter().any(|name| vocabulary::is_odd_number(name)) {
        return Err(path::PathFault::Number.into());
    }
    if vocabulary::is_below_leaf(segments) {
        return Err(Malformed::NotOffered);
    }
    let names: Vec<&str> = segments.iter().skip(1).map(String::as_str).collect();
    match names.as_slice() {
        ["versions"] => {
            pairs.clear();
            Ok(Ask::Versions)
        }
        ["identity", "oauth2", "token"] => TokenAsk::parse(pairs).map(Ask::Token),
        ["identity", "info"] => {
            version::at_least(pairs, version::IDENTITY)?;
            pairs.retain(|(name, _)| name == "api-version");
            Ok(Ask::IdentityInfo)
        }
        ["identity", ..] => Err(Malformed::NotOffered),
        ["instance", below @ ..] => {
            let api_version = version::of_instance(pairs)?;
            let format = format(pairs)?;
            pairs
                .retain(|(name, _)| matches!(name.as_str(), "api-version" | "format" | "extended"));
            Ok(Ask::Instance(InstanceAsk {
                api_version,
                path: below.iter().map(|name| (*name).to_owned()).collect(),
                format,
            }))
        }
        ["attested", ..] | ["loadbalancer", ..] | ["scheduledevents", ..] => {
            version::at_least(pairs, version::OLDEST)?;
            Ok(Ask::ForwardOnly)
        }
        _ => Ok(Ask::ForwardOnly),
    }
}

fn format(pairs: &query::Pairs) -> Result<Format, Malformed> {
    match value(pairs, "format") {
        None => Ok(Format::Json),
        Some(json) if json.eq_ignore_ascii_case("json") => Ok(Format::Json),
        Some(text) if text.eq_ignore_ascii_case("text") => Ok(Format::Text),
        Some(_) => Err(Malformed::Parameter { name: "format" }),
    }
}

fn request(ask: &Ask, method: &str, path: &Arc<str>, subtree: bool) -> Request {
    let (cloud, path) = (Cloud::Azure, Arc::clone(path));
    match ask {
        Ask::Token(token) => Request::Credential(token.credential()),
        _ if method != "GET" => Request::Write { cloud, path },
        _ => Request::Read {
            cloud,
            path,
            subtree,
            imdsv1: false,
        },
    }
}

fn upstream_headers(head: &RequestHead<'_>, metadata: bool) -> Vec<(String, String)> {
    if metadata {
        return vec![("metadata".to_owned(), "true".to_owned())];
    }
    let signed = "x-ms-azure-host-";
    head.headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        // What the platform's own proxy agent signs is over another request than ours; a claim of another's is no header to copy.
        .filter(|(name, _)| name.starts_with("x-ms-") && !name.starts_with(signed))
        .filter_map(|(name, value)| Some((name, String::from_utf8(value.to_vec()).ok()?)))
        .collect()
}

/// The value of a parameter. Names are compared with their case, as the service documents them; [`query::parse`] has
/// refused a second one that differs in case alone.
fn value<'a>(pairs: &'a query::Pairs, name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}
