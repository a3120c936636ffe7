//! What the issuer publishes: its discovery document and key set, for verifiers anywhere. The guard pushes both as bytes;
//! nothing here knows a key. GET and HEAD of two paths, nothing else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use imds_guard_core::request::Cloud;
use imds_guard_core::respond::{Outcome, respond};
use imds_guard_core::seam::Issuer;
use imds_guard_core::token::{DISCOVERY_PATH, JWKS_PATH};
use tokio::net::{TcpListener, TcpStream};

use super::accept::next;
use super::gate::{Gate, Halt};
use super::linger;
use super::seats::{Holder, Seats};
use super::socket::Socket;

/// Connections of verifiers at once.
const VERIFIERS: usize = 64;
/// For how long a verifier may keep what it read: keys overlap for much longer when they change.
const FRESH: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// What is published now; nothing before the guard has pushed it.
#[derive(Debug, Default)]
pub(crate) struct Published(RefCell<Option<Documents>>);

#[derive(Debug)]
struct Documents {
    /// Path of the issuer's URL, without a slash at its end.
    base: String,
    discovery: Bytes,
    jwks: Bytes,
}

impl Published {
    /// Publishes what the guard pushed.
    pub(crate) fn publish(&self, issuer: &Issuer) {
        *self.0.borrow_mut() = Some(Documents {
            base: base(&issuer.discovery),
            discovery: Bytes::copy_from_slice(issuer.discovery.as_bytes()),
            jwks: Bytes::copy_from_slice(issuer.jwks.as_bytes()),
        });
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED);
            let allow = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, allow);
            return refused;
        }
        let documents = self.0.borrow();
        let Some(documents) = &*documents else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        match request.uri().path().strip_prefix(documents.base.as_str()) {
            Some(DISCOVERY_PATH) => json(documents.discovery.clone()),
            Some(JWKS_PATH) => json(documents.jwks.clone()),
            _ => plain(StatusCode::NOT_FOUND),
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

fn json(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, FRESH);
    response
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Serves verifiers for the life of the process.
pub(crate) async fn serve(published: Rc<Published>, listener: TcpListener) {
    let seats = Seats::new(VERIFIERS, VERIFIERS);
    while let Some(stream) = next(&listener).await {
        // No seat: closed at once. Verifiers try again.
        if let Ok(seat) = seats.take(Holder::Unattributed) {
            let published = Rc::clone(&published);
            tokio::task::spawn_local(async move {
                verifier(&published, stream).await;
                drop(seat);
            });
        }
    }
}

async fn verifier(published: &Published, stream: TcpStream) {
    let socket = Socket::new(stream);
    let (gate, halted) = Gate::new(socket.clone());
    let service = service_fn(async |request| Ok::<_, Infallible>(published.answer(&request)));
    let served = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(gate), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a verifier's connection ended");
    }
    if let Some(Halt::Violation(violation)) = halted.get() {
        let answer = respond(Cloud::Azure, &Outcome::Violation(violation)).to_bytes();
        linger::refuse(socket, &answer).await;
    }
}
