//! Interception in the kernel.
