//! Dialects: a checked request head becomes a [`Call`] of one cloud.
//!
//! Owns: canonical paths and queries, the checks that every dialect makes on headers, and what each endpoint takes.
//! Must never: decide who may have what, or keep anything of the request that a later stage could read in another way.
//! Everything that goes upstream is rebuilt from the parsed form ([`Call::rebuild`]).

pub mod aws;
pub mod azure;
pub mod gcp;
mod guard_headers;
mod malformed;
pub mod path;
pub mod query;
mod rebuild;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use malformed::Malformed;
pub use rebuild::{Rebuilt, SecretHeader};

use crate::http::RequestHead;
use crate::request::{Cloud, Request};

/// What is spoken at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// Azure's instance metadata service.
    AzureImds,
    /// Azure's wireserver (and its extension port), which mirrors the metadata service under `/metadata`.
    AzureWireserver,
    /// Amazon's instance metadata service.
    AwsImds,
    /// Amazon's container credentials.
    AwsContainer,
    /// Google's metadata server.
    GcpMetadata,
    /// The same behind TLS, to which only the machine's own certificate is a key. Nobody can look into it, so nothing is
    /// served there: in enforce mode it is shut.
    GcpMtls,
}

impl Service {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::AzureImds,
        Self::AzureWireserver,
        Self::AwsImds,
        Self::AwsContainer,
        Self::GcpMetadata,
        Self::GcpMtls,
    ];

    /// What an endpoint of this name (as in the configuration) and cloud speaks. An endpoint that the operator added
    /// speaks its cloud's instance metadata dialect.
    pub fn of_endpoint(name: &str, cloud: Cloud) -> Self {
        match (cloud, name) {
            (Cloud::Azure, "azure-wireserver" | "azure-hostga") => Self::AzureWireserver,
            (Cloud::Azure, _) => Self::AzureImds,
            (Cloud::Aws, "aws-ecs" | "aws-eks") => Self::AwsContainer,
            (Cloud::Aws, _) => Self::AwsImds,
            (Cloud::Gcp, "gcp-mtls") => Self::GcpMtls,
            (Cloud::Gcp, _) => Self::GcpMetadata,
        }
    }

    /// Whose it is.
    pub const fn cloud(self) -> Cloud {
        match self {
            Self::AzureImds | Self::AzureWireserver => Cloud::Azure,
            Self::AwsImds | Self::AwsContainer => Cloud::Aws,
            Self::GcpMetadata | Self::GcpMtls => Cloud::Gcp,
        }
    }
}

/// Where a request arrived: from the kernel's record, never from the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// What is spoken there.
    pub service: Service,
    /// The address that the caller dialled.
    pub address: IpAddr,
    /// The port that the caller dialled.
    pub port: u16,
}

/// A request, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What policy is asked.
    pub request: Request,
    /// What the dialect needs to answer.
    pub asked: Asked,
    /// For [`Call::rebuild`].
    method: &'static str,
    path: Arc<str>,
    query: query::Pairs,
    /// Headers that the service needs beside its guard header, by lower-case name.
    headers: Vec<(String, String)>,
}

/// What the dialect needs to answer a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// In Azure's dialect.
    Azure(azure::Ask),
    /// In Amazon's.
    Aws(aws::Ask),
    /// In Google's.
    Gcp(gcp::Ask),
}

impl Asked {
    /// Whether it is of AWS and came without a session token.
    pub fn is_imdsv1(&self) -> bool {
        matches!(self, Self::Aws(ask) if ask.is_imdsv1())
    }
}

/// Understands a request head that the scanner has passed.
///
/// # Errors
/// The first thing wrong with it; [`crate::respond`] has the answer to each.
pub fn parse(head: &RequestHead<'_>, arrival: &Arrival) -> Result<Call, Malformed> {
    guard_headers::check(head, arrival)?;
    match arrival.service {
        Service::AzureImds | Service::AzureWireserver => azure::parse(head, arrival),
        Service::AwsImds | Service::AwsContainer => aws::parse(head, arrival),
        Service::GcpMetadata => gcp::parse(head, arrival),
        Service::GcpMtls => Err(Malformed::UnknownService),
    }
}
