//! System calls that `nix` lacks, and the only unsafe code of this crate. Each function is one call or one short
//! sequence of calls with its errno kept; no policy, no retry, no state.

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod memfd;
pub mod memory;
pub mod netns;
pub mod pidfd;
pub mod privilege;
pub mod proc;
pub mod scm;
pub mod sockopt;
pub mod spawn;
pub mod watch;
