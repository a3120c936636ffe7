//! The pure heart of imds-guard, in reading order:
//!
//! 1. [`http`]: bytes of a request head, checked strictly before anyone interprets them.
//! 2. [`imds`]: a checked head becomes a [`imds::Call`] of one cloud's dialect, and that a [`request::Request`].
//! 3. [`evidence`], [`selector`]: what attestation found out about the caller.
//! 4. [`policy`]: files become a [`policy::PolicySet`]; the caller's selectors become a [`policy::Workload`];
//!    [`policy::PolicySet::decide`] turns (workload, request, now) into a [`decision::Decision`].
//! 5. [`respond`]: the one table that turns outcomes into responses.
//! 6. [`exchange`]: what is said to clouds' token endpoints, and what they answer.
//! 7. [`names`]: where the name of such an endpoint leads, and where none may lead.
//! 8. [`audit`]: the record of one exchange. [`token`]: the claims of a minted token. [`seam`]: what the two
//!    processes say to each other.
//!
//! Invariant: nothing here does IO, reads a clock or the environment, logs, blocks, or is unsafe. Time is an argument.
#![forbid(unsafe_code)]

pub mod audit;
pub mod decision;
pub mod evidence;
pub mod exchange;
pub mod http;
pub mod imds;
pub mod names;
pub mod policy;
pub mod request;
pub mod respond;
pub mod seam;
pub mod secret;
pub mod selector;
pub mod token;
