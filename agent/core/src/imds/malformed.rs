//! What a dialect refuses before policy is asked: each with its stable name.
//! Must never: carry bytes of the request.

use super::path::PathFault;
use super::query::QueryFault;

/// A request that breaks its dialect's rules. The connection may go on: where the next request begins is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// The path could be read in two ways.
    #[error(transparent)]
    Path(#[from] PathFault),
    /// The query could be read in two ways.
    #[error(transparent)]
    Query(#[from] QueryFault),
    /// No `Host`.
    #[error("the Host header is missing")]
    HostMissing,
    /// `Host` isn't the address that was dialled.
    #[error("the Host header must be the address of this service")]
    ForeignHost,
    /// `X-Forwarded-For`.
    #[error("X-Forwarded-For is not accepted")]
    ForwardedFor,
    /// `Forwarded`, `Via`, `X-Real-IP` and their like.
    #[error("requests through a proxy are not accepted")]
    Forwarded,
    /// `Origin` or `Sec-Fetch-*`.
    #[error("requests from a browser are not accepted")]
    Browser,
    /// `Host` or another header that decides something, twice.
    #[error("a header is given twice that may be given once")]
    DuplicateHeader,
    /// No `Metadata: true`. SDKs probe so: normal traffic, not an attack.
    #[error("Required metadata header not specified")]
    MetadataHeaderMissing,
    /// The endpoint doesn't take the method.
    #[error("the method is not allowed here")]
    Method {
        /// What it takes.
        allow: &'static str,
    },
    /// `api-version` is missing, malformed, or unknown to the endpoint.
    #[error("api-version is invalid or was not specified")]
    ApiVersion,
    /// `resource` is missing or empty.
    #[error("the parameter 'resource' is missing")]
    ResourceMissing,
    /// A parameter's value isn't one that it can have.
    #[error("the parameter '{name}' has an invalid value")]
    Parameter {
        /// Which.
        name: &'static str,
    },
    /// More than one of `client_id`, `object_id`, `msi_res_id`.
    #[error("the parameters 'client_id', 'object_id' and 'msi_res_id' exclude each other")]
    SeveralIdentities,
    /// A credential endpoint that we don't offer and policy can't grant: never forwarded.
    #[error("this endpoint is not offered")]
    NotOffered,
    /// How long a session token is to live is missing, no number, or out of bounds.
    #[error("the header X-aws-ec2-metadata-token-ttl-seconds must be a number from 1 to 21600")]
    SessionTtl,
    /// A session token that nobody can have got from us.
    #[error("the session token is not valid")]
    SessionToken,
    /// A session token is asked for under a dated version.
    #[error("session tokens are made at /latest/api/token")]
    SessionPath,
    /// `Authorization` that is no visible text.
    #[error("the Authorization header is not readable")]
    Authorization,
    /// No `Metadata-Flavor: Google`.
    #[error("Missing Metadata-Flavor:Google header")]
    FlavorMissing,
    /// `audience` is missing or empty.
    #[error("non-empty audience parameter required")]
    AudienceMissing,
    /// A service whose dialect this version doesn't speak.
    #[error("this service is not spoken here")]
    UnknownService,
}

impl Malformed {
    /// The stable name: stands in audit records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Path(fault) => match fault {
                PathFault::Relative => "path_relative",
                PathFault::BadEncoding => "path_bad_encoding",
                PathFault::DoubleEncoding => "path_double_encoding",
                PathFault::EncodedSeparator => "path_encoded_separator",
                PathFault::Control => "path_control",
                PathFault::NotAscii => "path_not_ascii",
                PathFault::DotSegment => "path_dot_segment",
                PathFault::Parameter => "path_parameter",
                PathFault::Number => "path_number",
            },
            Self::Query(fault) => match fault {
                QueryFault::BadEncoding => "query_bad_encoding",
                QueryFault::Control => "query_control",
                QueryFault::Semicolon => "query_semicolon",
                QueryFault::Plus => "query_plus",
                QueryFault::Nameless => "query_nameless",
                QueryFault::Duplicate => "query_duplicate",
            },
            Self::HostMissing => "host_missing",
            Self::ForeignHost => "foreign_host",
            Self::ForwardedFor => "forwarded_for",
            Self::Forwarded => "forwarded",
            Self::Browser => "browser",
            Self::DuplicateHeader => "duplicate_header",
            Self::MetadataHeaderMissing => "metadata_header_missing",
            Self::Method { .. } => "method",
            Self::ApiVersion => "api_version",
            Self::ResourceMissing => "resource_missing",
            Self::Parameter { .. } => "parameter",
            Self::SeveralIdentities => "several_identities",
            Self::NotOffered => "not_offered",
            Self::SessionTtl => "session_ttl",
            Self::SessionToken => "session_token",
            Self::SessionPath => "session_path",
            Self::Authorization => "authorization",
            Self::FlavorMissing => "flavor_missing",
            Self::AudienceMissing => "audience_missing",
            Self::UnknownService => "unknown_service",
        }
    }

    /// The HTTP status to answer with.
    pub const fn status(self) -> u16 {
        match self {
            Self::SessionToken => 401,
            Self::ForeignHost | Self::Browser | Self::SessionPath | Self::FlavorMissing => 403,
            // The IMDSv2-credential flow falls back to the token endpoint on it.
            Self::NotOffered | Self::UnknownService => 404,
            Self::Method { .. } => 405,
            _ => 400,
        }
    }
}
