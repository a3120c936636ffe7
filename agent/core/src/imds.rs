//! Dialects: a checked request head becomes a [`Call`] of one cloud.
//!
//! Owns: canonical paths and queries, the checks that every dialect makes on headers, and what each endpoint takes.
//! Must never: decide who may have what, or keep anything of the request that a later stage could read in another way.
//! Everything that goes upstream is rebuilt from the parsed form.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::request::Cloud;

/// What is spoken at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// Azure's instance metadata service.
    AzureImds,
    /// Azure's wireserver, which mirrors the metadata service under `/metadata`.
    AzureWireserver,
    /// Amazon's instance metadata service.
    AwsImds,
    /// Amazon's container credentials.
    AwsContainer,
    /// Google's metadata server.
    GcpMetadata,
}

impl Service {
    /// Whose it is.
    pub const fn cloud(self) -> Cloud {
        match self {
            Self::AzureImds | Self::AzureWireserver => Cloud::Azure,
            Self::AwsImds | Self::AwsContainer => Cloud::Aws,
            Self::GcpMetadata => Cloud::Gcp,
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
