//! Clients in Python. What is theirs alone is in the modules beside this one.

use imds_guard_tests::ordeal::{Client, OURS, Seen};
use imds_guard_tests::{Program, Runtime, ordeals};

/// As the stand-in for the real service words it.
const UPSTREAMS: Seen = Seen::Words("in trouble, says the real service");

ordeals! {
    azure_identity: Vm = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["azure_token.py", "managed", "https://vault.azure.net"],
            environment: &[],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
    msal: Vm = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["azure_msal.py", "https://vault.azure.net"],
            environment: &[],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Words("unknown"),
        throttled: Seen::Words("unknown"),
        slow: Seen::Words("unknown"),
    };
    azure_cli_core: Vm = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["azure_cli.py", "https://vault.azure.net"],
            environment: &[],
        },
        stays: true,
        denied: OURS,
        failing: UPSTREAMS,
        throttled: UPSTREAMS,
        slow: Seen::Words("did not answer in time"),
    };
    boto3: Instance = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["aws_credentials.py", "credentials"],
            environment: &[],
        },
        stays: true,
        denied: Seen::Words("Unable to locate credentials"),
        failing: Seen::Words("Unable to locate"),
        throttled: Seen::Words("Unable to locate"),
        slow: Seen::Words("Unable to locate"),
    };
    aws_cli: Instance = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["aws_cli.py", "http://127.0.0.1:8099"],
            environment: &[],
        },
        stays: false,
        denied: Seen::Words("Unable to locate credentials"),
        failing: Seen::Words("Unable to locate credentials"),
        throttled: Seen::Words("Unable to locate credentials"),
        slow: Seen::Words("Unable to locate credentials"),
    };
    google_auth: Gce = Client {
        program: Program {
            runtime: Runtime::Python,
            words: &["gcp_token.py", "token", "https://www.googleapis.com/auth/devstorage.read_only"],
            environment: &[("GCE_METADATA_HOST", "169.254.169.254"), ("GCE_METADATA_IP", "169.254.169.254")],
        },
        stays: true,
        denied: OURS,
        failing: Seen::Served,
        throttled: Seen::Served,
        slow: Seen::Served,
    };
}
