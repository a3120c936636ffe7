//! Azure's column of the table. Statuses are chosen by what SDKs do with them: 403 stops every
//! client at once and shows the text; 404, 410, 429 and 5xx are retried for up to 75 s; Rust hides the text of a 400.
//! Must never: use 404, 410 or 5xx for a refusal.

use std::borrow::Cow;

use super::{NotGiven, Outcome, Response, words};
use crate::decision::DenyReason;
use crate::imds::Malformed;

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// Newer MSAL looks for `IMDS` in it.
const SERVER: &str = "IMDS/1.0 (imds-guard)";
/// As the real service words it. The versions are the newest three of [`crate::imds::azure::version::INSTANCE`].
const BAD_VERSION: &str = r#"{"error":"Bad request. api-version is invalid or was not specified in the request. For more information refer to aka.ms/azureimds","newest-versions":["2025-04-07","2024-07-17","2024-03-15"]}"#;

pub(super) fn respond(outcome: &Outcome<'_>) -> Response {
    match outcome {
        Outcome::Json(body) => response(200, JSON, body.as_bytes().to_vec()),
        Outcome::Text(body) => response(200, TEXT, body.as_bytes().to_vec()),
        Outcome::Octets(body) => response(200, "application/octet-stream", body.to_vec()),
        // There are no sessions here.
        Outcome::Session { .. } | Outcome::Unauthorized => error(500, "unknown", words::INTERNAL),
        Outcome::Violation(violation) => {
            error(violation.status(), "invalid_request", violation.text()).last()
        }
        Outcome::Malformed(malformed) => malformed_response(*malformed),
        Outcome::Denied(denial) => denied(denial.reason),
        Outcome::Unserved(reason) => denied(*reason),
        Outcome::NotServed => error(404, "not_found", words::NOTHING),
        Outcome::LeafNeedsText => error(
            400,
            "invalid_request",
            "This path is a leaf: read it with format=text",
        ),
        Outcome::Throttled { retry_after } => {
            let mut response = error(429, "too_many_requests", words::TOO_MANY);
            let seconds = retry_after.to_string();
            response.headers.push(("Retry-After", seconds.into()));
            response
        }
        // 5xx: clients try again after a second or more, which is what should happen.
        Outcome::UpstreamAway => error(502, "unknown", words::AWAY),
        Outcome::UpstreamSlow => error(504, "unknown", words::SLOW),
        Outcome::UpstreamBroken => error(502, "unknown", words::BROKEN),
        Outcome::NotGiven(why) => {
            let word = match why {
                NotGiven::Refused { .. } => "access_denied",
                _ => "unknown",
            };
            error(why.status(), word, &words::not_given(*why))
        }
        Outcome::Internal => error(500, "unknown", words::INTERNAL),
    }
}

fn malformed_response(malformed: Malformed) -> Response {
    match malformed {
        Malformed::ApiVersion => response(400, JSON, BAD_VERSION.as_bytes().to_vec()),
        Malformed::MetadataHeaderMissing => error(
            400,
            "invalid_request",
            "Required metadata header not specified",
        ),
        Malformed::Method { allow } => {
            let mut response = error(405, "method_not_allowed", "The method is not allowed here");
            response.headers.push(("Allow", allow.into()));
            response
        }
        Malformed::ForeignHost | Malformed::Browser => error(
            malformed.status(),
            "access_denied",
            &words::malformed(malformed),
        ),
        Malformed::NotOffered | Malformed::UnknownService => error(
            malformed.status(),
            "not_found",
            &words::malformed(malformed),
        ),
        _ => error(
            malformed.status(),
            "invalid_request",
            &words::malformed(malformed),
        ),
    }
}

fn denied(reason: DenyReason) -> Response {
    error(403, "access_denied", &words::denied(reason))
}

fn error(status: u16, code: &str, description: &str) -> Response {
    let body = serde_json::json!({ "error": code, "error_description": description });
    response(status, JSON, body.to_string().into_bytes())
}

fn response(status: u16, media_type: &'static str, body: Vec<u8>) -> Response {
    let length = body.len().to_string();
    Response {
        status,
        headers: vec![
            ("Content-Type", media_type.into()),
            ("Content-Length", Cow::Owned(length)),
            ("Cache-Control", "no-store".into()),
            ("X-Content-Type-Options", "nosniff".into()),
            ("Server", SERVER.into()),
        ],
        body,
        close: false,
    }
}
