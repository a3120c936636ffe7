//! A method and a request target into Google's dialect, with the scopes that a grant may name.
//!
//! Holds: no panic; what is rebuilt is parsed to the same request; what gives a credential, or is made of private keys, is no
//! read, in any spelling; a token's request goes upstream with the grant's scopes where it names none.
#![no_main]

use imds_guard_core::http::RequestHead;
use imds_guard_core::imds::gcp::{FLAVOR, account_part};
use imds_guard_core::imds::{self, Arrival, Call, Malformed, Service};
use imds_guard_core::request::{CredentialAsk, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
        let Ok(call) = parse(method, target) else {
            continue;
        };
        check(&call);
        let rebuilt = call.rebuild_for(None, &["scope".into()]);
        assert!(rebuilt.target.is_ascii());
        let again = parse(method, &call.rebuild(None).target).expect("what is rebuilt parses");
        assert_eq!(again.request, call.request);
        assert_eq!(again.rebuild(None), call.rebuild(None));
        if let Request::Credential(CredentialAsk::GcpToken { scopes, .. }) = &call.request {
            assert!(rebuilt.target.contains("?scopes="));
            assert!(!scopes.is_empty() || rebuilt.target.ends_with("?scopes=scope"));
        }
    }
});

fn check(call: &Call) {
    let Request::Read { path, .. } = &call.request else {
        return;
    };
    let plain: String = path
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '/')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let below = plain.strip_prefix("/computemetadata/v1/instance/");
    let first = below.and_then(|below| below.split('/').next());
    let keys = [
        "credentials",
        "gceworkloadcertificates",
        "workloadidentities",
    ];
    assert!(!first.is_some_and(|first| keys.contains(&first)), "{path}");
    if first == Some("serviceaccounts") {
        assert!(account_part(path).is_some(), "{path}");
    }
}

fn parse(method: &str, target: &str) -> Result<Call, Malformed> {
    let headers = [
        ("Host", b"metadata.google.internal".as_slice()),
        (FLAVOR.0, FLAVOR.1.as_bytes()),
    ];
    let head = RequestHead {
        method,
        target,
        headers: &headers,
    };
    let arrival = Arrival {
        service: Service::GcpMetadata,
        address: [169, 254, 169, 254].into(),
        port: 80,
    };
    imds::parse(&head, &arrival)
}
