//! What a request asks for, in the only form that policy sees: canonical, typed per cloud.

use std::sync::Arc;

/// A cloud whose metadata dialect we speak.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cloud {
    Azure,
    Aws,
    Gcp,
}

/// One request, as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Metadata that is not a credential.
    Read {
        /// Whose dialect.
        cloud: Cloud,
        /// Canonical absolute path: decoded once, no empty, `.` or `..` segments, no trailing slash,
        /// e.g. `/metadata/instance/compute/name`.
        path: Arc<str>,
        /// Whether the answer shows everything below `path` as well. A deny below it then matches, too.
        subtree: bool,
        /// AWS: asked without a session token. Only a rule that says `imdsv1` covers it.
        imdsv1: bool,
    },
    /// Something that changes state, such as the approval of a scheduled event. A rule that allows to read never allows it.
    Write {
        /// Whose dialect.
        cloud: Cloud,
        /// Canonical absolute path, as for [`Request::Read`].
        path: Arc<str>,
    },
    /// A credential.
    Credential(CredentialAsk),
}

/// A credential that somebody asks for. Fields are exactly what the caller wrote, after decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "field names are the wire's")]
pub enum CredentialAsk {
    /// `GET /metadata/identity/oauth2/token`
    AzureToken {
        resource: Arc<str>,
        selector: Option<AzureIdentity>,
    },
    /// `GET /latest/meta-data/iam/security-credentials/<role>`
    AwsRole {
        /// None: the caller's own, whichever its rule names; so ask the list of roles, and containers for their credentials.
        role: Option<Arc<str>>,
        /// Asked without a session token. Only a rule that says `imdsv1` covers it.
        imdsv1: bool,
    },
    /// `GET .../service-accounts/<account>/token`
    GcpToken {
        account: Arc<str>,
        scopes: Vec<Arc<str>>,
    },
    /// `GET .../service-accounts/<account>/identity`
    GcpIdentity {
        account: Arc<str>,
        audience: Arc<str>,
    },
}

/// How an Azure caller names the managed identity that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the query parameters'")]
pub enum AzureIdentity {
    ClientId(Arc<str>),
    ObjectId(Arc<str>),
    ResourceId(Arc<str>),
}
