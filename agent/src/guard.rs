//! The privileged process: puts interceptor, attestation, keys and seam together and supervises the proxy. Never parses what a caller wrote.
