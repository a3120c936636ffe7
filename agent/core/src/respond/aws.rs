//! Amazon's column of the table. A refusal is a 403 on the GET, and never on the token PUT: whoever meets a failed PUT goes
//! on without a token (boto3, the JavaScript SDK), and an operator would see IMDSv1 refused instead of the reason.
//!
//! Two shapes: the metadata service's XHTML page, which no client reads and every human can, and the container credentials'
//! JSON, whose two fields the SDKs copy into their exceptions.

use std::borrow::Cow;

use super::{NotGiven, Outcome, Response, reason_phrase, words};
use crate::decision::DenyReason;
use crate::imds::Malformed;
use crate::imds::aws::session::TTL_HEADER;

const TEXT: &str = "text/plain";
/// As the real service's (unverified; no client looks at it).
const SERVER: &str = "EC2ws";

/// The real service's code where it can't assume the instance's role. Rust's SDK tells its user about the trust policy then.
const UNASSUMED: &str = "AssumeRoleUnauthorizedAccess";

/// Which of the two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Imds,
    Container,
}

pub(super) fn respond(shape: Shape, outcome: &Outcome<'_>) -> Response {
    match outcome {
        Outcome::Json(body) => {
            let kind = match shape {
                // Every document is plain text to the metadata service, also a JSON one.
                Shape::Imds => TEXT,
                Shape::Container => "application/json",
            };
            response(200, kind, body.as_bytes().to_vec())
        }
        Outcome::Text(body) => response(200, TEXT, body.as_bytes().to_vec()),
        Outcome::Octets(body) => response(200, "application/octet-stream", body.to_vec()),
        Outcome::Session { token, ttl } => {
            let mut response = response(200, TEXT, token.as_bytes().to_vec());
            let seconds = ttl.to_string();
            response.headers.push((TTL_HEADER, seconds.into()));
            response
        }
        Outcome::Violation(violation) => {
            let mut response = error(shape, violation.status(), violation.text());
            response.headers.push(("Connection", "close".into()));
            response.close = true;
            response
        }
        Outcome::Malformed(malformed) => malformed_response(shape, *malformed),
        Outcome::Unauthorized => error(shape, 401, words::SESSION),
        Outcome::Denied(denial) => denied(shape, denial.reason),
        Outcome::Unserved(reason) => denied(shape, *reason),
        // A leaf is never asked for in another form here.
        Outcome::NotServed | Outcome::LeafNeedsText => error(shape, 404, words::NOTHING),
        Outcome::Throttled { retry_after } => {
            let status = match shape {
                Shape::Imds => 503,
                Shape::Container => 429,
            };
            let mut response = error(shape, status, words::TOO_MANY);
            let seconds = retry_after.to_string();
            response.headers.push(("Retry-After", seconds.into()));
            response
        }
        Outcome::UpstreamAway => error(shape, 502, words::AWAY),
        Outcome::UpstreamSlow => error(shape, 504, words::SLOW),
        Outcome::UpstreamBroken => error(shape, 502, words::BROKEN),
        Outcome::NotGiven(why @ NotGiven::Refused { .. }) => {
            unassumed(shape, &words::not_given(*why))
        }
        Outcome::NotGiven(why) => error(shape, why.status(), &words::not_given(*why)),
        Outcome::Internal => error(shape, 500, words::INTERNAL),
    }
}

fn malformed_response(shape: Shape, malformed: Malformed) -> Response {
    let status = match malformed {
        // What the real service answers to a token PUT that came through a proxy.
        Malformed::ForwardedFor | Malformed::Forwarded => 403,
        other => other.status(),
    };
    let mut response = error(shape, status, &words::malformed(malformed));
    if let Malformed::Method { allow } = malformed {
        response.headers.push(("Allow", allow.into()));
    }
    response
}

fn denied(shape: Shape, reason: DenyReason) -> Response {
    let status = match reason {
        // As where session tokens are required: clients of IMDSv2 get one and ask again.
        DenyReason::Imdsv1 => 401,
        _ => 403,
    };
    error(shape, status, &words::denied(reason))
}

fn error(shape: Shape, status: u16, text: &str) -> Response {
    match shape {
        Shape::Imds => response(status, "text/html", page(status, text).into_bytes()),
        Shape::Container => {
            let body = serde_json::json!({ "Code": code(status), "Message": text });
            response(status, "application/json", body.to_string().into_bytes())
        }
    }
}

/// The page of the real service, with our sentence below its heading. `text` is ours: nothing of a request is in it.
fn page(status: u16, text: &str) -> String {
    let heading = format!("{status} - {}", reason_phrase(status));
    format!(
        r#"<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
 "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{heading}</title>
 </head>
 <body>
  <h1>{heading}</h1>
  <p>{text}</p>
 </body>
</html>
"#
    )
}

/// As the real service words it where it can't assume the instance's role: with the status of a success.
fn unassumed(shape: Shape, text: &str) -> Response {
    let body = serde_json::json!({ "Code": UNASSUMED, "Message": text });
    match shape {
        Shape::Imds => response(200, TEXT, format!("{body:#}").into_bytes()),
        Shape::Container => response(403, "application/json", body.to_string().into_bytes()),
    }
}

const fn code(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDenied",
        404 => "ResourceNotFound",
        429 => "ThrottlingException",
        500.. => "InternalServerException",
        _ => "InvalidRequest",
    }
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
