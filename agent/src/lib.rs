//! imds-guard: decides, per workload, what a process on this host may get from the cloud's metadata service.
//!
//! Two processes out of one binary. The **guard** ([`guard`]) holds the power: it loads the kernel programs
//! ([`intercept`]), finds out who is calling ([`attest`]), keeps the signing keys ([`issuer`]), and never parses what a
//! caller wrote. The **proxy** ([`proxy`]) holds none: it accepts, parses, decides with `imds-guard-core`, and answers
//! ([`upstream`], [`outbound`], [`credentials`]). They talk over one seqpacket socket, in the messages of `imds_guard_core::seam`.
//!
//! Invariants: only [`sys`] contains unsafe; only [`guard`] reads the configuration from disk; nothing reaches an
//! upstream or a key without a `Permit`; losing either process loses access, never protection.
#![deny(unsafe_code)]

pub mod attest;
mod audit;
pub mod bypass;
mod caller;
pub mod cli;
pub mod config;
pub mod control;
pub mod credentials;
pub mod doctor;
pub mod guard;
mod handed;
pub mod intercept;
pub mod issuer;
mod notify;
pub mod outbound;
pub mod proxy;
pub mod status;
#[expect(
    unsafe_code,
    reason = "the one place where system calls that nix lacks are made"
)]
pub mod sys;
pub mod upstream;
