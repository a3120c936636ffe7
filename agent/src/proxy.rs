//! The unprivileged process.
