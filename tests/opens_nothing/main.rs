//! Installing it opens nothing: what a caller obtains of the real service before the agent is there, it obtains afterwards in
//! `observe` and in `audit`, granted or not, from the same address, and nothing more; in `enforce` nobody obtains anything but
//! by a grant. The kinds of callers stand in [`callers`], one test each; [`table`] is what all of them go through.
//!
//! Each caller that is stopped has a twin beside it that isn't: the same but for what stops it.

mod callers;
mod filter;
mod sockets;
mod table;
