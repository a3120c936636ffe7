//! Configuration from disk: custody of the files, includes, reload. Reads and judges files; what they mean is the business of `imds-guard-core`.
