//! What every suite stands on: a [`World`] (a network namespace without a way out, a child cgroup, a bpffs of its own), the
//! workloads that live in it, the real agent, and a server standing where the cloud's metadata service stands.
//!
//! Owns: everything that must be undone after a test. Never: a packet to a metadata address outside such a world, BPF attached
//! to anything but a world's cgroup, or a test that passes because something was missing (see [`require!`]).
#![forbid(unsafe_code)]

mod agent;
mod audit;
mod aws;
mod azure;
mod binary;
pub mod cast;
mod cgroup;
mod client;
pub mod cloud;
pub mod far;
mod fate;
mod gcp;
mod machine;
mod netns;
pub mod ordeal;
mod python;
mod require;
mod response;
mod scale;
mod service;
mod sniffer;
mod space;
mod token;
mod workload;
mod world;

pub use agent::{Agent, AgentProcess};
pub use audit::AuditTail;
pub use aws::{AUTHORIZATION, AWS_CANARY, AWS_CONTAINER, AWS_IMDS, AWS_STS, FakeAws, ROLE};
pub use azure::{FakeAzure, Manner, UPSTREAM_TOKEN};
pub use binary::{binary, guest_image};
pub use cgroup::{Cgroup, leftovers};
pub use client::{Program, Runtime, Staying};
pub use far::FarEnds;
pub use fate::{Fate, Outcome};
pub use gcp::{FakeGcp, GCP_ACCOUNT, GCP_CANARY, GCP_METADATA, GCP_METADATA_V6, GCP_OTHER};
pub use imds_guard_far::{Authority, End, FarEnd, Reply, Request};
pub use machine::Machine;
pub use netns::ADDRESSES;
pub use python::Python;
pub use require::{Need, demand, kernel_is_at_least};
pub use response::Response;
pub use scale::{patience, scaled};
pub use service::{Received, Trouble};
pub use sniffer::Sniffer;
pub use space::Space;
pub use token::claims;
pub use workload::{Caller, Workload};
pub use world::World;

/// Azure's metadata service, as every SDK dials it.
pub const AZURE_IMDS: &str = "169.254.169.254:80";
/// The same over IPv6, written as a mapped address.
pub const AZURE_IMDS_MAPPED: &str = "[::ffff:169.254.169.254]:80";
/// AWS's metadata service over IPv6.
pub const AWS_IMDS_V6: &str = "[fd00:ec2::254]:80";
/// Azure's wire server.
pub const AZURE_WIRESERVER: &str = "168.63.129.16:80";
