//! Answers as bytes. The statuses, headers and words are core's; this module keeps the head of a success ready, so that the
//! frequent answers cost no formatting, and adds what only the moment knows: length, date, and what becomes of the connection.

use std::cell::RefCell;

use hyper::body::Bytes;
use hyper::{StatusCode, header};
use imds_guard_core::imds::Service;
use imds_guard_core::respond::{self, Outcome, reason_phrase, respond};
use imds_guard_core::secret::Secret;

use super::clock::unix_now;
use super::http1::After;
use crate::upstream;

/// Form of a body that is made here. The media type is the dialect's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Text,
    /// Nothing we know.
    Octets,
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Made here.
    Made(Form, Bytes),
    /// Made here, and what it is known by.
    Tagged {
        form: Form,
        body: Bytes,
        etag: String,
        /// Whether the caller had to wait for it.
        waited: bool,
    },
    /// A credential, and whether it had to be fetched.
    Credential {
        form: Form,
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
            Self::Made(..) | Self::Tagged { .. } | Self::Credential { .. } => 200,
            Self::Forwarded(answer) => answer.status.as_u16(),
            Self::Table(response) => response.status,
        }
    }

    /// Whether the world may have changed while it was made.
    pub(crate) const fn took_time(&self) -> bool {
        matches!(
            self,
            Self::Credential { fetched: true, .. }
                | Self::Tagged { waited: true, .. }
                | Self::Forwarded(_)
        )
    }
}

/// The heads of successes of each service, ready but for what the moment adds, and the `Date` of this second.
#[derive(Debug)]
pub(crate) struct Replies {
    of: [(Service, Heads); Service::ALL.len()],
    date: RefCell<(i64, String)>,
}

/// One service's.
#[derive(Debug)]
struct Heads {
    json: Vec<u8>,
    text: Vec<u8>,
    octets: Vec<u8>,
    /// What stands beside the real service's status and media type.
    forwarded: Vec<u8>,
}

/// Statuses without a body and without a length (RFC 9110, 6.4.1 and 8.6).
const BODILESS: [StatusCode; 2] = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
/// Written here, for each answer anew.
const OURS: [&str; 3] = ["content-length", "connection", "date"];

impl Heads {
    /// As core's table has them.
    fn new(service: Service) -> Self {
        let ready = |outcome| {
            let mut head = Vec::new();
            let row = respond(service, &outcome);
            begin(&mut head, row.status, reason_phrase(row.status));
            headers(&mut head, &row, None);
            head
        };
        let mut forwarded = Vec::new();
        let row = respond(service, &Outcome::Json(""));
        headers(&mut forwarded, &row, Some(header::CONTENT_TYPE.as_str()));
        Self {
            json: ready(Outcome::Json("")),
            text: ready(Outcome::Text("")),
            octets: ready(Outcome::Octets(b"")),
            forwarded,
        }
    }

    fn made(&self, form: Form) -> &[u8] {
        match form {
            Form::Json => &self.json,
            Form::Text => &self.text,
            Form::Octets => &self.octets,
        }
    }

    /// Our own headers on the real service's status, media type and body.
    fn forwarded(&self, answer: upstream::Answer, to: &mut Vec<u8>) -> Bytes {
        let reason = answer.status.canonical_reason().unwrap_or_default();
        begin(to, answer.status.as_u16(), reason);
        to.extend_from_slice(&self.forwarded);
        if let Some(kind) = answer.content_type {
            field(to, header::CONTENT_TYPE.as_str(), kind.as_bytes());
        }
        if let Some(etag) = answer.etag {
            field(to, header::ETAG.as_str(), etag.as_bytes());
        }
        if let Some(seconds) = answer.retry_after {
            field(to, header::RETRY_AFTER.as_str(), seconds.as_bytes());
        }
        // It leaves here, to the caller whose request was permitted.
        answer.body.expose().clone()
    }
}

impl Replies {
    /// Of every service.
    pub(crate) fn new() -> Self {
        Self {
            of: Service::ALL.map(|service| (service, Heads::new(service))),
            date: RefCell::new((i64::MIN, String::new())),
        }
    }

    fn heads(&self, service: Service) -> &Heads {
        let [(_, first), ..] = &self.of;
        let found = self.of.iter().find(|(of, _)| *of == service);
        found.map_or(first, |(_, heads)| heads)
    }

    /// Appends the head of `service`'s reply to `to`, and returns the body that follows it.
    pub(crate) fn write(
        &self,
        service: Service,
        reply: Reply,
        after: After,
        to: &mut Vec<u8>,
    ) -> Bytes {
        let heads = self.heads(service);
        let mut has_body = true;
        let body = match reply {
            Reply::Made(form, body) => {
                to.extend_from_slice(heads.made(form));
                body
            }
            Reply::Tagged {
                form, body, etag, ..
            } => {
                to.extend_from_slice(heads.made(form));
                field(to, header::ETAG.as_str(), etag.as_bytes());
                body
            }
            // As below: to the caller whose request was permitted.
            Reply::Credential { form, body, .. } => {
                to.extend_from_slice(heads.made(form));
                body.expose().clone()
            }
            Reply::Forwarded(answer) => {
                has_body = !BODILESS.contains(&answer.status);
                heads.forwarded(answer, to)
            }
            Reply::Table(row) => {
                begin(to, row.status, reason_phrase(row.status));
                headers(to, &row, None);
                row.body.into()
            }
        };
        self.end(after, has_body.then_some(body.len()), to);
        if has_body { body } else { Bytes::new() }
    }

    /// What only the moment knows.
    fn end(&self, after: After, length: Option<usize>, to: &mut Vec<u8>) {
        if let Some(length) = length {
            field(to, "content-length", length.to_string().as_bytes());
        }
        let now = unix_now();
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            *date = (now, printed(now));
        }
        field(to, "date", date.1.as_bytes());
        to.extend_from_slice(after.header().as_bytes());
        to.extend_from_slice(b"\r\n");
    }
}

fn begin(to: &mut Vec<u8>, status: u16, reason: &str) {
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(status.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(reason.as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// The table's headers, but for the one that is given another way and those that are written for each answer.
fn headers(to: &mut Vec<u8>, row: &respond::Response, without: Option<&str>) {
    for (name, value) in &row.headers {
        let name = name.to_ascii_lowercase();
        if !OURS.contains(&&*name) && without != Some(&*name) {
            field(to, &name, value.as_bytes());
        }
    }
}

fn field(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

/// RFC 9110, 5.6.7. A clock that is beyond what can be written gives none.
fn printed(now: i64) -> String {
    jiff::Timestamp::from_second(now)
        .ok()
        .and_then(|now| {
            jiff::fmt::rfc2822::DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&now)
                .ok()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: Reply, after: After) -> (String, Bytes) {
        let mut head = Vec::new();
        let body = Replies::new().write(Service::AzureImds, reply, after, &mut head);
        (String::from_utf8(head).unwrap(), body)
    }

    #[test]
    fn a_head_has_a_length_and_a_date_and_says_what_becomes_of_the_connection() {
        let (head, body) = written(Reply::Made(Form::Json, "{}".into()), After::GoesOn);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-length: 2\r\n"), "{head}");
        assert!(head.contains(" GMT\r\n"), "{head}");
        assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
        assert!(!head.contains("connection"), "{head}");
        assert_eq!(body, "{}");
        let (head, _) = written(Reply::Made(Form::Text, "x".into()), After::Ends);
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        let (head, _) = written(Reply::Made(Form::Text, "x".into()), After::GoesOnAsAsked);
        assert!(head.contains("\r\nconnection: keep-alive\r\n"), "{head}");
    }

    #[test]
    fn each_header_stands_once_and_a_row_keeps_its_own() {
        let row = respond(Service::AzureImds, &Outcome::Throttled { retry_after: 7 });
        let (head, _) = written(Reply::Table(row), After::GoesOn);
        assert!(
            head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nretry-after: 7\r\n"), "{head}");
        let mut names: Vec<_> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let all = names.len();
        names.sort_unstable_by_key(|(name, _)| *name);
        names.dedup_by_key(|(name, _)| *name);
        assert_eq!(names.len(), all, "{head}");
    }
}
