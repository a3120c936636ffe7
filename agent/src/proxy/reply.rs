//! Answers on their way to hyper. The statuses, headers and words are core's; this module only keeps the headers of a
//! success ready, so that the frequent answers cost no formatting.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use imds_guard_core::request::Cloud;
use imds_guard_core::respond::{self, Outcome, respond};
use imds_guard_core::secret::Secret;

use crate::upstream;

/// What is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// JSON made here.
    Json(Bytes),
    /// Text made here.
    Text(Bytes),
    /// JSON that holds a credential, and whether it had to be fetched.
    Credential {
        /// The body.
        body: Secret<Bytes>,
        /// Whether the caller had to wait for a source.
        fetched: bool,
    },
    /// The real service's.
    Forwarded(upstream::Answer),
    /// A row of core's table.
    Table(respond::Response),
}

impl Reply {
    /// The status that it will have.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Json(_) | Self::Text(_) | Self::Credential { .. } => 200,
            Self::Forwarded(answer) => answer.status.as_u16(),
            Self::Table(response) => response.status,
        }
    }

    /// Whether the world may have changed while it was made.
    pub(crate) const fn took_time(&self) -> bool {
        matches!(
            self,
            Self::Credential { fetched: true, .. } | Self::Forwarded(_)
        )
    }
}

/// The headers of a success, ready.
#[derive(Debug)]
pub(crate) struct Replies {
    json: HeaderMap,
    text: HeaderMap,
}

impl Replies {
    /// As core's table has them.
    pub(crate) fn new() -> Self {
        Self {
            json: headers(&respond(Cloud::Azure, &Outcome::Json(""))),
            text: headers(&respond(Cloud::Azure, &Outcome::Text(""))),
        }
    }

    /// The response.
    pub(crate) fn response(&self, reply: Reply) -> Response<Full<Bytes>> {
        match reply {
            Reply::Json(body) => response(StatusCode::OK, self.json.clone(), body),
            // It leaves here, to the caller whose request was permitted.
            Reply::Credential { body, .. } => {
                response(StatusCode::OK, self.json.clone(), body.expose().clone())
            }
            Reply::Text(body) => response(StatusCode::OK, self.text.clone(), body),
            Reply::Forwarded(answer) => self.forwarded(answer),
            Reply::Table(row) => {
                let status =
                    StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                response(status, headers(&row), row.body.into())
            }
        }
    }

    /// Our own headers on the real service's status, media type and body.
    fn forwarded(&self, answer: upstream::Answer) -> Response<Full<Bytes>> {
        let mut headers = self.json.clone();
        match answer.content_type {
            Some(kind) => drop(headers.insert(CONTENT_TYPE, kind)),
            None => drop(headers.remove(CONTENT_TYPE)),
        }
        if let Some(seconds) = answer.retry_after {
            headers.insert(RETRY_AFTER, seconds);
        }
        // As above: what was forwarded may hold a credential.
        response(answer.status, headers, answer.body.expose().clone())
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn headers(row: &respond::Response) -> HeaderMap {
    row.headers
        .iter()
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            // hyper writes the length of the body that it gets.
            (name != CONTENT_LENGTH).then_some(())?;
            Some((name, HeaderValue::from_str(value).ok()?))
        })
        .collect()
}
