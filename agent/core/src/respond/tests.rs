//! What every response has, what none says, and the bytes that SDKs look at.

use serde_json::Value;

use super::*;
use crate::imds::azure::version;
use crate::imds::path::PathFault;
use crate::imds::query::QueryFault;
use crate::request::Cloud;

const REASONS: [DenyReason; DenyReason::ALL.len()] = DenyReason::ALL;

fn malformed() -> Vec<Malformed> {
    use Malformed::*;
    vec![
        Path(PathFault::DotSegment),
        Query(QueryFault::Duplicate),
        HostMissing,
        ForeignHost,
        ForwardedFor,
        Forwarded,
        Browser,
        DuplicateHeader,
        MetadataHeaderMissing,
        Method { allow: "GET" },
        ApiVersion,
        ResourceMissing,
        Parameter { name: "format" },
        SeveralIdentities,
        NotOffered,
        SessionTtl,
        SessionToken,
        SessionPath,
        Authorization,
        UnknownService,
    ]
}

#[test]
fn a_clouds_refusal_is_told_by_its_code_and_by_nothing_that_could_be_markup() {
    for service in Service::ALL {
        let told = |code| {
            let response = respond(service, &Outcome::NotGiven(NotGiven::Refused { code }));
            let worded = service == Service::AwsImds;
            let status = if worded { 200 } else { 403 };
            assert_eq!(response.status, status, "{service:?}");
            String::from_utf8(response.body).unwrap()
        };
        assert!(told("AADSTS700213").contains("(AADSTS700213)"));
        for bad in ["<b>", "a b", "\"", "&lt;"] {
            assert!(!told(bad).contains(&format!("({bad}")), "{bad}");
        }
        assert!(!told("").contains("()"));
    }
}

/// In the words of every service.
fn failures() -> Vec<(Service, Response)> {
    let mut outcomes = vec![
        Outcome::NotServed,
        Outcome::Unauthorized,
        Outcome::LeafNeedsText,
        Outcome::Throttled { retry_after: 7 },
        Outcome::UpstreamAway,
        Outcome::UpstreamSlow,
        Outcome::UpstreamBroken,
        Outcome::NotGiven(NotGiven::Refused {
            code: "AADSTS700213",
        }),
        Outcome::NotGiven(NotGiven::Away),
        Outcome::NotGiven(NotGiven::Slow),
        Outcome::NotGiven(NotGiven::Broken),
        Outcome::Internal,
    ];
    outcomes.extend(REASONS.map(Outcome::Unserved));
    outcomes.extend(Violation::ALL.map(Outcome::Violation));
    outcomes.extend(malformed().into_iter().map(Outcome::Malformed));
    let all = Service::ALL
        .iter()
        .flat_map(|service| outcomes.iter().map(|outcome| (*service, outcome)));
    all.map(|(service, outcome)| (service, respond(service, outcome)))
        .collect()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut found = response
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name));
    let value = found.next().map(|(_, value)| &**value);
    assert!(found.next().is_none(), "{name} twice");
    value
}

fn one(outcome: Outcome<'_>) -> (u16, Value, Response) {
    let response = respond(Service::AzureImds, &outcome);
    (
        response.status,
        serde_json::from_slice(&response.body).unwrap(),
        response,
    )
}

#[test]
fn every_response_is_closed_to_caches_and_sniffers() {
    let successes = Service::ALL.into_iter().flat_map(|service| {
        let made = [
            Outcome::Json("{}"),
            Outcome::Text("x"),
            Outcome::Octets(b"x"),
        ];
        made.map(|outcome| (service, respond(service, &outcome)))
    });
    for (service, response) in failures().into_iter().chain(successes) {
        assert_eq!(
            header(&response, "Content-Length"),
            Some(response.body.len().to_string().as_str())
        );
        assert_eq!(header(&response, "Cache-Control"), Some("no-store"));
        assert_eq!(header(&response, "X-Content-Type-Options"), Some("nosniff"));
        if service.cloud() == Cloud::Azure {
            assert!(header(&response, "Server").unwrap().contains("IMDS"));
        }
        assert_eq!(
            response.close,
            header(&response, "Connection") == Some("close")
        );
        assert!(
            !reason_phrase(response.status).is_empty(),
            "{}",
            response.status
        );
        assert!(header(&response, "Access-Control-Allow-Origin").is_none());
    }
}

#[test]
fn what_the_cloud_refuses_is_told_as_clients_understand_it() {
    let refused = Outcome::NotGiven(NotGiven::Refused {
        code: "AccessDenied",
    });
    for (service, status) in [
        // As the real service words it.
        (Service::AwsImds, 200),
        (Service::AwsContainer, 403),
        (Service::AzureImds, 403),
        (Service::GcpMetadata, 403),
    ] {
        let response = respond(service, &refused);
        assert_eq!(response.status, status, "{service:?}");
        let text = String::from_utf8(response.body.clone()).unwrap();
        assert!(text.contains("AccessDenied"), "{text}");
        if service.cloud() == Cloud::Aws {
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(body["Code"], "AssumeRoleUnauthorizedAccess");
            assert!(body["Message"].is_string());
        }
    }
}

#[test]
fn no_refusal_says_unreachable_or_shows_internals() {
    for (service, response) in failures() {
        // The real metadata service of Amazon's words it as an answer where it can't assume a role.
        let worded = service == Service::AwsImds && response.body.starts_with(b"{");
        assert!(response.status >= 400 || worded);
        let flavor = header(&response, "Metadata-Flavor").map(str::to_owned);
        let text = String::from_utf8(response.body)
            .unwrap()
            .to_ascii_lowercase();
        for word in [
            "unreachable",
            "uid",
            "/etc",
            "/run",
            "toml",
            "cgroup",
            "seam",
            "errno",
        ] {
            assert!(!text.contains(word), "{word}: {text}");
        }
        match service {
            Service::AwsImds if worded => {
                let body: Value = serde_json::from_str(&text).unwrap();
                assert!(body["code"].is_string() && body["message"].is_string());
            }
            Service::AwsImds => {
                let title = format!("<h1>{} - ", response.status);
                assert!(text.contains(&title), "{text}");
            }
            Service::AwsContainer => {
                let body: Value = serde_json::from_str(&text).unwrap();
                assert!(body["code"].is_string() && body["message"].is_string());
            }
            Service::GcpMetadata | Service::GcpMtls => {
                let title = format!("<title>error {} (", response.status);
                assert!(text.contains(&title), "{text}");
                assert_eq!(flavor.as_deref(), Some("Google"));
            }
            Service::AzureImds | Service::AzureWireserver => {
                let body: Value = serde_json::from_str(&text).unwrap();
                assert!(body["error"].is_string());
            }
        }
    }
}

#[test]
fn a_denial_is_403_and_says_why() {
    let mut texts: Vec<String> = REASONS
        .iter()
        .map(|reason| {
            let (status, body, response) = one(Outcome::Unserved(*reason));
            assert_eq!((status, &body["error"]), (403, &"access_denied".into()));
            assert!(!response.close);
            body["error_description"].to_string()
        })
        .collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), REASONS.len(), "each reason in its own words");
    let denial = Denial {
        reason: DenyReason::DenyRule,
        rule: None,
        workloads: vec!["secret-name".into()],
    };
    let (status, body, _) = one(Outcome::Denied(&denial));
    assert_eq!(status, 403);
    assert!(!body.to_string().contains("secret-name"));
}

#[test]
fn what_sdks_probe_for() {
    let (status, body, response) = one(Outcome::Malformed(Malformed::MetadataHeaderMissing));
    assert_eq!(status, 400);
    assert_eq!(
        body,
        serde_json::json!({"error": "invalid_request", "error_description": "Required metadata header not specified"})
    );
    assert!(
        !response.close,
        "the real request follows on the same connection"
    );
    let (status, body, _) = one(Outcome::Malformed(Malformed::ApiVersion));
    let newest: Vec<String> = version::INSTANCE
        .iter()
        .rev()
        .take(3)
        .map(ToString::to_string)
        .collect();
    assert_eq!((status, &body["newest-versions"]), (400, &newest.into()));
    let (status, _, response) = one(Outcome::Malformed(Malformed::Method { allow: "GET, POST" }));
    assert_eq!(
        (status, header(&response, "Allow")),
        (405, Some("GET, POST"))
    );
    let (status, _, response) = one(Outcome::Throttled { retry_after: 7 });
    assert_eq!((status, header(&response, "Retry-After")), (429, Some("7")));
    assert_eq!(one(Outcome::Malformed(Malformed::ForwardedFor)).0, 400);
    assert_eq!(one(Outcome::Malformed(Malformed::ForeignHost)).0, 403);
    assert_eq!(one(Outcome::Malformed(Malformed::NotOffered)).0, 404);
    assert_eq!(one(Outcome::UpstreamAway).0, 502);
    assert_eq!(one(Outcome::UpstreamSlow).0, 504);
}

#[test]
fn what_googles_libraries_look_at() {
    let answer = |outcome| respond(Service::GcpMetadata, &outcome);
    for (outcome, status) in [
        (Outcome::Malformed(Malformed::FlavorMissing), 403),
        (Outcome::Malformed(Malformed::ForwardedFor), 403),
        (Outcome::Malformed(Malformed::AudienceMissing), 400),
        (Outcome::Malformed(Malformed::NotOffered), 404),
        (Outcome::Unserved(DenyReason::NoRule), 403),
        (Outcome::Throttled { retry_after: 7 }, 429),
        (Outcome::UpstreamAway, 503),
        (Outcome::UpstreamSlow, 504),
        (Outcome::Text("x"), 200),
    ] {
        let answer = answer(outcome);
        assert_eq!(answer.status, status);
        assert_eq!(header(&answer, "Metadata-Flavor"), Some("Google"));
        assert_eq!(header(&answer, "Server"), Some("Metadata Server for VM"));
    }
    let text = |outcome| String::from_utf8(answer(outcome).body).unwrap();
    let missing = text(Outcome::Malformed(Malformed::FlavorMissing));
    assert!(missing.contains("Missing Metadata-Flavor:Google header."));
    assert!(
        text(Outcome::Malformed(Malformed::AudienceMissing))
            .contains("non-empty audience parameter required")
    );
    let json = answer(Outcome::Json("{}"));
    assert_eq!(header(&json, "Content-Type"), Some("application/json"));
    let there = moved("/computeMetadata/v1/instance/".into());
    assert_eq!(
        (there.status, header(&there, "Location")),
        (301, Some("/computeMetadata/v1/instance/"))
    );
}

#[test]
fn the_bytes_after_a_violation() {
    let bytes = respond(Service::AzureImds, &Outcome::Violation(Violation::BareLf)).to_bytes();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 73\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nServer: IMDS/1.0 (imds-guard)\r\n\
         Connection: close\r\n\r\n\
         {\"error\":\"invalid_request\",\"error_description\":\"Lines must end in CR LF\"}"
    );
}

#[test]
fn amazons_statuses_are_what_its_sdks_expect() {
    let status = |outcome| respond(Service::AwsImds, &outcome).status;
    for (malformed, want) in [
        (Malformed::SessionTtl, 400),
        (Malformed::SessionToken, 401),
        (Malformed::SessionPath, 403),
        (Malformed::ForwardedFor, 403),
        (Malformed::Forwarded, 403),
        (Malformed::ForeignHost, 403),
        (Malformed::NotOffered, 404),
        (Malformed::Method { allow: "PUT" }, 405),
    ] {
        assert_eq!(status(Outcome::Malformed(malformed)), want, "{malformed}");
    }
    assert_eq!(status(Outcome::Unauthorized), 401);
    // A session is all that it lacks.
    assert_eq!(status(Outcome::Unserved(DenyReason::Imdsv1)), 401);
    assert_eq!(status(Outcome::Unserved(DenyReason::NoRule)), 403);
    assert_eq!(status(Outcome::NotServed), 404);
    let given = respond(
        Service::AwsImds,
        &Outcome::Session {
            token: "t",
            ttl: 60,
        },
    );
    assert_eq!((given.status, &*given.body), (200, &b"t"[..]), "no newline");
    assert_eq!(header(&given, "Content-Type"), Some("text/plain"));
    // Without it the Rust and Go SDKs take no token.
    assert_eq!(
        header(&given, "X-aws-ec2-metadata-token-ttl-seconds"),
        Some("60")
    );
    let media = |service, outcome| {
        let response = respond(service, &outcome);
        header(&response, "Content-Type").map(str::to_owned)
    };
    let is = |got: Option<String>, want: &str| assert_eq!(got.as_deref(), Some(want));
    is(media(Service::AwsImds, Outcome::Json("{}")), "text/plain");
    is(
        media(Service::AwsContainer, Outcome::Json("{}")),
        "application/json",
    );
}
