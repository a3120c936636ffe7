//! What the issuer publishes: its discovery document and key set, for verifiers anywhere. The guard pushes both as bytes;
//! nothing here knows a key. GET and HEAD of two paths, nothing else.

use std::cell::RefCell;
use std::rc::Rc;

use imds_guard_core::http::{RequestHead, split};
use imds_guard_core::imds::Service;
use imds_guard_core::respond::{Outcome, Response, respond};
use imds_guard_core::seam::Issuer;
use imds_guard_core::token::{DISCOVERY_PATH, JWKS_PATH};
use tokio::net::{TcpListener, TcpStream};

use super::accept::next;
use super::gate::{Ended, Gate};
use super::reply::{Replies, Reply};
use super::seats::{Holder, Seat, Seats};
use super::socket::Socket;
use super::{http1, linger};

/// Connections of verifiers at once.
const VERIFIERS: usize = 64;
/// For how long a verifier may keep what it read: keys overlap for much longer when they change.
const FRESH: &str = "public, max-age=300";

/// What is published now; nothing before the guard has pushed it.
#[derive(Debug, Default)]
pub(crate) struct Published(RefCell<Option<Documents>>);

#[derive(Debug)]
struct Documents {
    /// Path of the issuer's URL, without a slash at its end.
    base: String,
    discovery: Box<str>,
    jwks: Box<str>,
}

impl Published {
    /// Publishes what the guard pushed.
    pub(crate) fn publish(&self, issuer: &Issuer) {
        *self.0.borrow_mut() = Some(Documents {
            base: base(&issuer.discovery),
            discovery: (*issuer.discovery).into(),
            jwks: (*issuer.jwks).into(),
        });
    }

    fn answer(&self, head: &RequestHead<'_>) -> Response {
        if !matches!(head.method, "GET" | "HEAD") {
            return empty(405, ("Allow", "GET, HEAD"));
        }
        let documents = self.0.borrow();
        let Some(documents) = &*documents else {
            return empty(503, UNKEPT);
        };
        let path = head.target.split('?').next().unwrap_or_default();
        match path.strip_prefix(documents.base.as_str()) {
            Some(DISCOVERY_PATH) => json(&documents.discovery),
            Some(JWKS_PATH) => json(&documents.jwks),
            _ => empty(404, UNKEPT),
        }
    }
}

/// The path of the issuer's URL: what stands before the documents' own paths.
fn base(discovery: &str) -> String {
    let discovery: serde_json::Value = serde_json::from_str(discovery).unwrap_or_default();
    let issuer = discovery["issuer"].as_str().unwrap_or_default();
    let after_scheme = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let path = after_scheme
        .find('/')
        .map_or("", |slash| &after_scheme[slash..]);
    path.trim_end_matches('/').to_owned()
}

/// What was not there a moment ago may be there now.
const UNKEPT: (&str, &str) = ("Cache-Control", "no-store");

fn json(body: &str) -> Response {
    Response {
        headers: vec![
            ("Content-Type", "application/json".into()),
            ("Cache-Control", FRESH.into()),
        ],
        body: body.as_bytes().to_vec(),
        ..empty(200, UNKEPT)
    }
}

fn empty(status: u16, (name, value): (&'static str, &'static str)) -> Response {
    Response {
        status,
        headers: vec![(name, value.into())],
        body: Vec::new(),
        close: false,
    }
}

/// In whose words a verifier's own offences are told: these documents are no cloud's.
const PLAIN: Service = Service::AzureImds;

/// Serves verifiers for the life of the process.
pub(crate) async fn serve(published: Rc<Published>, listener: TcpListener) {
    let seats = Seats::new(VERIFIERS, VERIFIERS);
    let replies = Rc::new(Replies::new());
    while let Some(stream) = next(&listener).await {
        // No seat: closed at once. Verifiers try again.
        if let Ok(seat) = seats.take(Holder::Unattributed) {
            let (published, replies) = (Rc::clone(&published), Rc::clone(&replies));
            tokio::task::spawn_local(async move {
                verifier(&published, &replies, stream, &seat).await;
            });
        }
    }
}

async fn verifier(published: &Published, replies: &Replies, stream: TcpStream, seat: &Seat) {
    let socket = Socket::new(stream);
    let ended = http1::serve(&socket, seat, replies, async |gate: &mut Gate<_>| {
        let head = split(gate.head_bytes()).ok_or(Ended::Broken)?;
        Ok((PLAIN, Reply::Table(published.answer(&head.as_head()))))
    });
    if let Ended::Violation(violation) = ended.await {
        let answer = respond(PLAIN, &Outcome::Violation(violation)).to_bytes();
        linger::refuse(socket, &answer).await;
    }
}
