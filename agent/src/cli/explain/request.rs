//! The request that an operator types: `GET /metadata/identity/oauth2/token?resource=…`. It goes through the real dialects, for
//! policy alone; nothing is sent.

use std::net::{IpAddr, Ipv4Addr};

use imds_guard_core::http::RequestHead;
use imds_guard_core::imds::aws::TOKEN_HEADER;
use imds_guard_core::imds::aws::version::is_version;
use imds_guard_core::imds::{self, Arrival, Service, gcp::FLAVOR};
use imds_guard_core::request::Request;

/// Where Azure's, Amazon's and Google's requests go.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// Reads it; the error says what to write.
pub(super) fn parse(text: &str) -> Result<Request, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (method, target) = match words[..] {
        [method, target] => (method, target),
        [target] => ("GET", target),
        _ => return Err(format!("`{text}` is no request: write METHOD /PATH?QUERY")),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let first = path.split('/').nth(1).unwrap_or_default();
    if is_version(first) {
        return aws(method, target);
    }
    if path == "/computeMetadata" || path.starts_with("/computeMetadata/") {
        return gcp(method, target);
    }
    azure(method, target, query)
}

fn azure(method: &str, target: &str, query: &str) -> Result<Request, String> {
    let version = !query
        .split('&')
        .any(|pair| pair.starts_with("api-version="));
    // What every client sends and no operator wants to type.
    let target = match (version, query.is_empty()) {
        (false, _) => target.to_owned(),
        (true, true) => format!("{}?api-version=2021-02-01", target.trim_end_matches('?')),
        (true, false) => format!("{target}&api-version=2021-02-01"),
    };
    let headers: [(&str, &[u8]); 2] = [("Host", b"169.254.169.254"), ("Metadata", b"true")];
    parsed(Service::AzureImds, method, &target, &headers)
}

/// As a client of IMDSv2 asks.
fn aws(method: &str, target: &str) -> Result<Request, String> {
    let headers: [(&str, &[u8]); 2] = [("Host", b"169.254.169.254"), (TOKEN_HEADER, b"x")];
    parsed(Service::AwsImds, method, target, &headers)
}

fn parsed(
    service: Service,
    method: &str,
    target: &str,
    headers: &[(&str, &[u8])],
) -> Result<Request, String> {
    let head = RequestHead {
        method,
        target,
        headers,
    };
    let arrival = Arrival {
        service,
        address: ADDRESS,
        port: 80,
    };
    let call = imds::parse(&head, &arrival)
        .map_err(|e| format!("the agent would refuse `{method} {target}` as malformed: {e}"))?;
    Ok(call.request)
}

fn gcp(method: &str, target: &str) -> Result<Request, String> {
    let headers: [(&str, &[u8]); 2] = [
        ("Host", b"169.254.169.254"),
        (FLAVOR.0, FLAVOR.1.as_bytes()),
    ];
    parsed(Service::GcpMetadata, method, target, &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_every_cloud() {
        for (text, credential) in [
            (
                "GET /metadata/identity/oauth2/token?resource=https://vault.azure.net",
                true,
            ),
            ("/metadata/instance/compute/location", false),
            ("GET /latest/meta-data/iam/security-credentials/batch", true),
            ("GET /latest/meta-data/placement/region", false),
            ("GET /2021-07-15/meta-data/iam/security-credentials/", true),
            (
                "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=a,b",
                true,
            ),
            ("GET /computeMetadata/v1/?recursive=true", false),
        ] {
            let request = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(
                matches!(request, Request::Credential(_)),
                credential,
                "{text}"
            );
        }
        for bad in [
            "",
            "GET /a /b",
            "GET /latest/../x",
            "GET /metadata/%2e%2e/x",
            "GET /computeMetadata/v1/instance/service-accounts/default/identity",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
