//! Amazon's dialect; `agent/docs/imds-compat.md` says what is served, altered and refused, and from which source.
//!
//! Owns: which endpoints exist, which of them give credentials, and the one form of a path for its many versions
//! (`/2021-07-15/…`, `/1.0/…` and `/latest/…` are one thing to policy).
//! Must never: turn anything that gives a credential into a plain read, in any spelling.

pub mod answer;
mod container;
pub mod document;
pub mod role;
pub mod session;
#[cfg(test)]
mod tests;
mod tree;
pub mod version;

use std::sync::Arc;

pub use session::Session;

use super::rebuild::SecretHeader;
use super::{Arrival, Call, Malformed, Service, path, query};
use crate::http::RequestHead;
use crate::secret::Secret;

/// What a caller asks of Amazon's metadata service, or of the container credentials' one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `PUT /latest/api/token`: a session token.
    Session {
        /// How long it is to live, in seconds: from 1 to [`session::TTL_MAX`].
        ttl: u32,
    },
    /// Something of the metadata tree.
    Tree(TreeAsk),
    /// Something of the container credentials' service.
    Container(ContainerAsk),
}

/// A GET of the metadata tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeAsk {
    /// The version, as the caller wrote it: the real service shows each its own tree. Empty for `/`, the list of versions.
    pub version: Arc<str>,
    /// Whether a slash goes upstream at the end: as the caller wrote it, which the real service looks at and policy doesn't; for
    /// roles as it is documented.
    pub slash: bool,
    /// What it is for.
    pub what: What,
    /// The session that the caller shows.
    pub session: Session,
}

/// What of the tree is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The list of roles: one name, of the role whose credentials the caller may have.
    Roles,
    /// A role's credentials.
    Role,
    /// Anything else.
    Read,
}

/// A GET of the container credentials' service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerAsk {
    /// What stands behind `credentials` in path or query. Whoever knows it gets the credentials, so it is a secret.
    id: Option<(Id, Secret<Arc<str>>)>,
    /// The `Authorization` header, as the caller wrote it.
    authorization: Option<Secret<Arc<str>>>,
}

/// Where the id of container credentials stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Path,
    Query,
}

/// Where session tokens are made. Exact: a dated version of it is refused by the real service.
pub(super) const TOKEN_PATH: &str = "/latest/api/token";
/// The header by which a caller shows its session token, and we ours.
pub const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

impl Ask {
    /// Whether it is asked without a session token: IMDSv1.
    pub fn is_imdsv1(&self) -> bool {
        matches!(self, Self::Tree(ask) if ask.session == Session::None)
    }
}

pub(super) fn parse(head: &RequestHead<'_>, arrival: &Arrival) -> Result<Call, Malformed> {
    let (raw_path, raw_query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let segments = path::segments(raw_path)?;
    let pairs = query::parse(raw_query)?;
    if arrival.service == Service::AwsContainer {
        return container::parse(head, &segments, pairs);
    }
    // Nothing here has a query: the real service doesn't look at it, and it doesn't get it.
    tree::parse(head, &segments, raw_path.ends_with('/'))
}

/// Path and query as they go upstream, and the header that nobody may see.
pub(super) fn target(call: &Call, ask: &Ask) -> (String, Option<SecretHeader>) {
    match ask {
        // Never sent: the agent makes session tokens itself, and holds the real service's.
        Ask::Session { .. } => (path::encode(&call.path), None),
        Ask::Tree(ask) => (tree::target(&call.path, ask), None),
        Ask::Container(ask) => (
            container::target(&call.path, &call.query, ask),
            ask.authorization
                .clone()
                .map(|value| ("authorization", value)),
        ),
    }
}

/// GET, and HEAD, which is a GET whose body isn't sent.
fn method(method: &str) -> Result<&'static str, Malformed> {
    match method {
        "GET" => Ok("GET"),
        "HEAD" => Ok("HEAD"),
        _ => Err(Malformed::Method { allow: "GET, HEAD" }),
    }
}
