//! Where a name leads: what the host's files say, what a resolver is asked and what its answer means, and which addresses nobody
//! is led to. Resolvers are strangers: what they send is bounded, has to be the answer to the very question, and can't lead to
//! a metadata service.

mod files;
mod forbidden;
mod message;
#[cfg(test)]
mod tests;

pub use files::{Resolvers, in_hosts};
pub use forbidden::is_forbidden;
pub use message::{Family, Found, Heard, Question, UDP_BYTES, hear};
