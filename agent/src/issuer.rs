//! The signing keys and what is published about them. A key never leaves this module, and nothing is signed that the policy core did not permit.
