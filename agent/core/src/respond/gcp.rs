//! Google's column of the table. Statuses are chosen by what clients do with them: Python and JavaScript try again on 408, 429,
//! 500, 503 and 504, and stop at once on a 403, whose page both show in their exceptions. Every answer carries
//! `Metadata-Flavor: Google`, errors included: JavaScript takes one without it for somebody else's.
//! Must never: use 404 or 5xx for a refusal.

use std::borrow::Cow;

use super::{NotGiven, Outcome, Response, reason_phrase, words};
use crate::imds::Malformed;

const JSON: &str = "application/json";
const TEXT: &str = "application/text";
const HTML: &str = "text/html; charset=UTF-8";

pub(super) fn respond(outcome: &Outcome<'_>) -> Response {
    match outcome {
        Outcome::Json(body) => response(200, JSON, body.as_bytes().to_vec()),
        Outcome::Text(body) => response(200, TEXT, body.as_bytes().to_vec()),
        Outcome::Octets(body) => response(200, "application/octet-stream", body.to_vec()),
        Outcome::Violation(violation) => {
            let mut response = error(violation.status(), violation.text());
            response.headers.push(("Connection", "close".into()));
            response.close = true;
            response
        }
        Outcome::Malformed(malformed) => malformed_response(*malformed),
        Outcome::Denied(denial) => error(403, &words::denied(denial.reason)),
        Outcome::Unserved(reason) => error(403, &words::denied(*reason)),
        Outcome::NotServed | Outcome::LeafNeedsText => error(404, words::NOTHING),
        Outcome::Throttled { retry_after } => {
            let mut response = error(429, words::TOO_MANY);
            let seconds = retry_after.to_string();
            response.headers.push(("Retry-After", seconds.into()));
            response
        }
        Outcome::UpstreamAway => error(503, words::AWAY),
        Outcome::UpstreamSlow => error(504, words::SLOW),
        Outcome::UpstreamBroken => error(502, words::BROKEN),
        // Python and JavaScript don't try again on a 502.
        Outcome::NotGiven(NotGiven::Away) => error(503, &words::not_given(NotGiven::Away)),
        Outcome::NotGiven(why) => error(why.status(), &words::not_given(*why)),
        // Nobody is asked for a session here.
        Outcome::Internal | Outcome::Session { .. } | Outcome::Unauthorized => {
            error(500, words::INTERNAL)
        }
    }
}

/// A directory asked for without the slash at its end.
pub fn moved(location: String) -> Response {
    let mut response = error(301, "A directory has a slash at the end");
    response.headers.push(("Location", location.into()));
    response
}

fn malformed_response(malformed: Malformed) -> Response {
    let status = match malformed {
        Malformed::ForwardedFor | Malformed::Forwarded => 403,
        other => other.status(),
    };
    let text = match malformed {
        // In the real server's words.
        Malformed::FlavorMissing => {
            "Your client does not have permission to get this URL from this server. Missing Metadata-Flavor:Google header."
                .to_owned()
        }
        Malformed::AudienceMissing => malformed.to_string(),
        other => words::malformed(other),
    };
    let mut response = error(status, &text);
    if let Malformed::Method { allow } = malformed {
        response.headers.push(("Allow", allow.into()));
    }
    response
}

/// `text` is ours: nothing of a request is in it.
fn error(status: u16, text: &str) -> Response {
    let title = format!("Error {status} ({})", reason_phrase(status));
    let page = format!(
        "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<title>{title}</title>\n<p><b>{status}.</b> {text}\n</html>\n"
    );
    response(status, HTML, page.into_bytes())
}

fn response(status: u16, media_type: &'static str, body: Vec<u8>) -> Response {
    let length = body.len().to_string();
    Response {
        status,
        headers: vec![
            ("Metadata-Flavor", "Google".into()),
            ("Content-Type", media_type.into()),
            ("Content-Length", Cow::Owned(length)),
            ("Cache-Control", "no-store".into()),
            ("X-Content-Type-Options", "nosniff".into()),
            ("X-XSS-Protection", "0".into()),
            ("X-Frame-Options", "SAMEORIGIN".into()),
            // As the real server's.
            ("Server", "Metadata Server for VM".into()),
        ],
        body,
        close: false,
    }
}
