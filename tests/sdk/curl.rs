//! What scripts do: curl, and nothing else.

use imds_guard_tests::ordeal::{Client, OURS, Seen};
use imds_guard_tests::{Program, Runtime, ordeals};

ordeals! {
    azure: Vm = Client {
        program: Program {
            runtime: Runtime::Shell,
            words: &["curl.sh", "azure", "https://vault.azure.net"],
            environment: &[],
        },
        stays: false,
        denied: OURS,
        failing: Seen::Words("500"),
        throttled: Seen::Words("429"),
        slow: Seen::Words("504"),
    };
    aws: Instance = Client {
        program: Program {
            runtime: Runtime::Shell,
            words: &["curl.sh", "aws"],
            environment: &[],
        },
        stays: false,
        denied: OURS,
        failing: Seen::Words("500"),
        throttled: Seen::Words("429"),
        slow: Seen::Words("504"),
    };
    gcp: Gce = Client {
        program: Program {
            runtime: Runtime::Shell,
            words: &["curl.sh", "gcp", "https://www.googleapis.com/auth/devstorage.read_only"],
            environment: &[],
        },
        stays: false,
        denied: OURS,
        failing: Seen::Words("500"),
        throttled: Seen::Words("429"),
        slow: Seen::Words("504"),
    };
}
