//! Clients in Rust: crates of a workspace of their own, `tests/clients/rust`.

use imds_guard_tests::ordeal::{Client, OURS, Seen};
use imds_guard_tests::{Program, Runtime, ordeals};

ordeals! {
    azure_identity: Vm = Client {
        program: Program {
            runtime: Runtime::Rust,
            words: &["azure", "https://vault.azure.net"],
            environment: &[],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
    aws_config: Instance = Client {
        program: Program {
            runtime: Runtime::Rust,
            words: &["aws"],
            environment: &[],
        },
        stays: true,
        denied: Seen::Words("403"),
        failing: Seen::Served,
        throttled: Seen::Words("429"),
        slow: Seen::Served,
    };
    google_cloud_auth: Gce = Client {
        program: Program {
            runtime: Runtime::Rust,
            words: &["gcp", "https://www.googleapis.com/auth/devstorage.read_only"],
            environment: &[("GCE_METADATA_HOST", "169.254.169.254")],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Words("500"),
        throttled: Seen::Words("429"),
        slow: Seen::Words("504"),
    };
}
