//! What `imds-guard doctor` finds: whether each layer is in force, and which ways round this machine has.
//!
//! Two halves. [`mod@look`] gathers [`Facts`]: reads alone, it attaches nothing, sends nothing and changes nothing. [`mod@judge`] is
//! pure: facts become [`Finding`]s. What could not be looked at is [`State::Unknown`] and never [`State::Ok`].

mod facts;
mod finding;
mod judge;
mod look;

pub use facts::{Facts, Question, Seen};
pub use finding::{Endpoint, Finding, LayerState, Report, State};
pub(crate) use judge::word;
pub use judge::{CHECKS, judge};
pub use look::look;
pub(crate) use look::{endpoints, guard};
