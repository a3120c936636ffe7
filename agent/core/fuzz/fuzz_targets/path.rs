//! A request target into the dialect.
//!
//! Holds: no panic; a canonical path is its own canonical path, with no way to climb or to be decoded again; what is
//! rebuilt is parsed to the same request; nothing below `/metadata/identity` is a read but `info`, in any spelling.
#![no_main]

use imds_guard_core::http::RequestHead;
use imds_guard_core::imds::{self, Arrival, Call, Malformed, Service, path};
use imds_guard_core::request::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let raw = target.split('?').next().unwrap_or_default();
    if let Ok(segments) = path::segments(raw) {
        let canonical = path::join(&segments);
        assert!(!canonical.contains("//") && !canonical.contains(['%', '\\', ';', '#', '\0', ' ']));
        assert!(
            segments
                .iter()
                .all(|s| s != "." && s != ".." && !s.is_empty() && !s.contains('/'))
        );
        assert_eq!(path::segments(&path::encode(&canonical)), Ok(segments));
    }
    let Ok(call) = parse(target) else { return };
    let path = call.path().to_ascii_lowercase();
    if path.starts_with("/metadata/identity") && path != "/metadata/identity/info" {
        assert!(
            matches!(call.request, Request::Credential(_))
                || !path.starts_with("/metadata/identity/") && path != "/metadata/identity",
            "{:?}",
            call.request
        );
    }
    let rebuilt = call.rebuild(None);
    assert!(rebuilt.target.is_ascii());
    let again = parse(&rebuilt.target).expect("what is rebuilt parses");
    assert_eq!(again.request, call.request);
    assert_eq!(again.asked, call.asked);
    assert_eq!(again.rebuild(None), rebuilt);
});

fn parse(target: &str) -> Result<Call, Malformed> {
    let headers = [
        ("Host", b"169.254.169.254".as_slice()),
        ("Metadata", b"true"),
    ];
    let head = RequestHead {
        method: "GET",
        target,
        headers: &headers,
    };
    let arrival = Arrival {
        service: Service::AzureImds,
        address: [169, 254, 169, 254].into(),
        port: 80,
    };
    imds::parse(&head, &arrival)
}
