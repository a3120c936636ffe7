//! The unprivileged process.
mod gate;
mod linger;
mod rates;
mod seats;
mod sink;
