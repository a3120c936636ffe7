//! What `source = "federate"` says beside the identity itself: where the assertion comes from, for whom it is, and where it is
//! exchanged. Checked whole at configuration time; nothing of a request is ever in it.

use std::sync::Arc;

use crate::exchange::google_sts::{self, Provider};
use crate::exchange::{Url, entra, web_identity};
use crate::request::Cloud;

/// How a federated identity's credential is obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Who vouches for the caller.
    pub assertion: Assertion,
    /// The assertion's `aud`, to the letter: what the cloud expects, and no other cloud.
    pub audience: Arc<str>,
    /// Where it is exchanged.
    pub exchange: Exchange,
}

/// Where an assertion comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assertion {
    /// The embedded issuer signs one for the caller.
    Issuer,
    /// Somebody else renews one in this file; the guard reads it at each exchange.
    File(Arc<str>),
}

/// Where an assertion is exchanged, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// Entra ID: client credentials.
    Entra {
        /// The tenant's token endpoint.
        url: Url,
    },
    /// AWS: AssumeRoleWithWebIdentity.
    Aws {
        /// The endpoint of STS.
        url: Url,
        /// The session's name; the workload's where nothing is said.
        session: Option<Arc<str>>,
    },
    /// Google: token exchange, and a service account's token with what that gives, where the identity names one.
    Google {
        /// The endpoint of the token exchange.
        url: Url,
        /// Where a service account's token is asked for.
        credentials: Url,
        /// Whose federation it is.
        provider: Provider,
    },
}

/// A text in a `sub` that a cloud takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectLimit {
    /// Whose.
    pub cloud: &'static str,
    /// In bytes; Entra and AWS count characters, of which a `sub` of ours has as many.
    pub bytes: usize,
}

impl SubjectLimit {
    /// What a `sub` may be long for this cloud.
    pub const fn of(cloud: Cloud) -> Self {
        let (cloud, bytes) = match cloud {
            Cloud::Azure => ("Entra ID", entra::TEXT_CHARS),
            Cloud::Aws => ("AWS", web_identity::SUBJECT_CHARS),
            Cloud::Gcp => ("Google Cloud", google_sts::SUBJECT_BYTES),
        };
        Self { cloud, bytes }
    }
}

impl Federation {
    /// What a caller is told for the e-mail of its account, where that is none but a pool's principal.
    pub fn address(&self) -> Option<Arc<str>> {
        match &self.exchange {
            Exchange::Google { provider, .. } => Some(provider.address().into()),
            _ => None,
        }
    }

    /// The file that holds the assertion, where the issuer doesn't sign it.
    pub fn file(&self) -> Option<&Arc<str>> {
        match &self.assertion {
            Assertion::File(path) => Some(path),
            Assertion::Issuer => None,
        }
    }
}
