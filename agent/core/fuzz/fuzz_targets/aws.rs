//! A request target into Amazon's dialect, with and without a session token, and into the containers' one.
//!
//! Holds: no panic; what is rebuilt is parsed to the same request; nothing below a name of something secret is a read, in any
//! spelling; the id of a container's credentials is in no path that policy and records see.
#![no_main]

use imds_guard_core::http::RequestHead;
use imds_guard_core::imds::aws::TOKEN_HEADER;
use imds_guard_core::imds::{self, Arrival, Call, Malformed, Service};
use imds_guard_core::request::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    for service in [Service::AwsImds, Service::AwsContainer] {
        for session in [true, false] {
            let Ok(call) = parse(service, target, session) else {
                continue;
            };
            check(service, &call);
            let rebuilt = call.rebuild(None);
            assert!(rebuilt.target.is_ascii());
            let again = parse(service, &rebuilt.target, session).expect("what is rebuilt parses");
            assert_eq!(again.request, call.request);
            assert_eq!(again.asked, call.asked);
            assert_eq!(again.rebuild(None), rebuilt);
        }
    }
});

/// Names are compared whole: `/my-security-credentials/x` is nobody's secret. And each service has its own: a container's endpoint
/// may call anything else what IMDS calls its roles.
fn check(service: Service, call: &Call) {
    let Request::Read { path, .. } = &call.request else {
        assert!(matches!(call.request, Request::Credential(_)));
        assert!(!call.path().contains("/credentials/"));
        return;
    };
    let lower = path.to_ascii_lowercase();
    let names: Vec<&str> = lower.split('/').collect();
    if service == Service::AwsContainer {
        assert!(!names.contains(&"credentials"), "{path}");
        return;
    }
    let above_others = &names[..names.len() - 1];
    assert!(!above_others.contains(&"security-credentials"), "{path}");
    assert!(!lower.ends_with("/iam/security-credentials"), "{path}");
}

fn parse(service: Service, target: &str, session: bool) -> Result<Call, Malformed> {
    let headers = [
        ("Host", b"169.254.169.254".as_slice()),
        (TOKEN_HEADER, b"token"),
    ];
    let head = RequestHead {
        method: "GET",
        target,
        headers: &headers[..if session { 2 } else { 1 }],
    };
    let arrival = Arrival {
        service,
        address: [169, 254, 169, 254].into(),
        port: 80,
    };
    imds::parse(&head, &arrival)
}
