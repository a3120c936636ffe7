//! The request as it goes upstream: made from the parsed form alone, so that the upstream reads what policy read.
//! Must never: copy a header of the caller's, but for the `x-ms-*` ones without which the wireserver answers nothing.

use std::sync::Arc;

use super::{Asked, Call, aws, azure, gcp};
use crate::policy::Identity;
use crate::secret::Secret;

/// A header by its lower-case name.
pub type SecretHeader = (&'static str, Secret<Arc<str>>);

/// A request to send to the real service. The body, if there is one, goes with it unchanged and with its exact length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The method.
    pub method: &'static str,
    /// Canonical path and query.
    pub target: String,
    /// All headers but `Host` (the upstream's address), `Content-Length` and `Connection`, which whoever sends adds.
    /// No `User-Agent`, no `Accept`, no tracing ids: the real services need none, and each could differ from what policy saw.
    pub headers: Vec<(String, String)>,
    /// A header whose value nobody may see: a session token, or what a container authorises itself by.
    pub secret: Option<SecretHeader>,
}

impl Rebuilt {
    /// Whether it may be sent again where no answer to it has begun: it changes nothing there.
    pub fn is_repeatable(&self) -> bool {
        self.method == "GET" || (self.method == "PUT" && self.target == aws::TOKEN_PATH)
    }
}

impl Call {
    /// The canonical request for the real service. `pinned` is the identity that the grant names: each dialect fills it in
    /// where the request names none; where the caller wrote one, policy has already found it equal.
    pub fn rebuild(&self, pinned: Option<&Identity>) -> Rebuilt {
        self.rebuild_for(pinned, &[])
    }

    /// The same, with the scopes that the grant names, for a request that names none.
    pub fn rebuild_for(&self, pinned: Option<&Identity>, scopes: &[Arc<str>]) -> Rebuilt {
        let (target, secret) = match &self.asked {
            Asked::Azure(ask) => (azure::target(self, ask, pinned), None),
            // The role that a grant pins is the one that is asked for, or there is no grant.
            Asked::Aws(ask) => aws::target(self, ask),
            Asked::Gcp(ask) => (gcp::target(self, ask, pinned, scopes), None),
        };
        Rebuilt {
            // Whose body is not sent to the caller has to come all the same: it has a length.
            method: if self.method == "HEAD" {
                "GET"
            } else {
                self.method
            },
            target,
            headers: self.headers.clone(),
            secret,
        }
    }

    /// The canonical path, as policy and the upstream see it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The method.
    pub const fn method(&self) -> &'static str {
        self.method
    }
}
