//! The request as it goes upstream: made from the parsed form alone, so that the upstream reads what policy read.
//! Must never: copy a header of the caller's, but for the `x-ms-*` ones without which the wireserver answers nothing.

use super::{Asked, Call, azure, path, query};
use crate::request::AzureIdentity;

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
}

impl Call {
    /// The canonical request for the real service. `pinned` fills in the identity selector of an Azure token request that
    /// has none; where the caller wrote one, policy has already found it equal.
    pub fn rebuild(&self, pinned: Option<&AzureIdentity>) -> Rebuilt {
        let mut target = path::encode(&self.path);
        let Asked::Azure(ask) = &self.asked;
        if let azure::Ask::Token(token) = ask {
            token.push_query(&mut target, pinned);
        } else {
            for (name, value) in &self.query {
                query::push_pair(&mut target, name, value);
            }
        }
        Rebuilt {
            method: self.method,
            target,
            headers: self.headers.clone(),
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
