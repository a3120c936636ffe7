//! Clients in JavaScript.

use imds_guard_tests::ordeal::{Client, OURS, Seen};
use imds_guard_tests::{Program, Runtime, ordeals};

/// The SDK says no more about anything that goes wrong there.
const JS_ALONE: Seen = Seen::Words("Error response received from instance metadata service");

ordeals! {
    azure_identity: Vm = Client {
        program: Program {
            runtime: Runtime::Node,
            words: &["azure_token.mjs", "managed", "https://vault.azure.net"],
            environment: &[],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
    aws_credential_providers: Instance = Client {
        program: Program {
            runtime: Runtime::Node,
            words: &["aws_credentials.mjs", "instance"],
            environment: &[],
        },
        stays: true,
        denied: JS_ALONE,
        failing: JS_ALONE,
        throttled: JS_ALONE,
        slow: JS_ALONE,
    };
    google_auth_library: Gce = Client {
        program: Program {
            runtime: Runtime::Node,
            words: &["gcp_token.mjs", "token", "https://www.googleapis.com/auth/devstorage.read_only"],
            environment: &[("GCE_METADATA_HOST", "169.254.169.254")],
        },
        stays: true,
        // It takes a refusal for another place than Google's, and looks no further.
        denied: Seen::Words("Could not load the default credentials"),
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
    gcp_metadata: Gce = Client {
        program: Program {
            runtime: Runtime::Node,
            words: &["gcp_token.mjs", "metadata", "service-accounts/default/token"],
            environment: &[("GCE_METADATA_HOST", "169.254.169.254")],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
}
