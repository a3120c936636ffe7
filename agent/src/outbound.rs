//! The clouds' own endpoints over HTTPS, where credentials are exchanged: the only code that dials them, and nothing gets here
//! without a [`Permit`]. What leaves is what core wrote ([`Outgoing`]); redirects are never followed; the answer's body is
//! bounded; and whatever a request needs, from the name on, happens within its budget.
//!
//! Nothing of the file system is needed: trust roots, resolvers and hosts come from the guard. A name leads nowhere near a
//! metadata service, whatever a resolver says. Who answers has to prove the name, to the roots that are configured; there is no
//! switch against that.

mod dial;
mod race;
mod resolver;
#[cfg(test)]
mod tests;
pub(crate) mod trust;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use imds_guard_core::decision::Permit;
use imds_guard_core::exchange::{Outgoing, Url};
use imds_guard_core::seam::OutboundFiles;
use imds_guard_core::secret::Secret;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::resolver::{ResolveError, Resolver};
use self::trust::{Tls, TrustError};

/// No answer of a token endpoint is near this size.
pub(crate) const BODY_BYTES: usize = 1024 * 1024;
/// Requests on their way at once. The others wait, within their budgets: each may hold some sockets while it finds its way.
pub(crate) const AT_ONCE: usize = 64;
/// Descriptors that one of those may hold: two questions to resolvers, or two attempts to connect, and one that follows.
pub(crate) const DESCRIPTORS_EACH: usize = 4;
/// Idle connections kept to one endpoint.
const KEPT: usize = 8;
/// For how long. Endpoints close what is idle after 20 seconds or more, and don't say so.
const IDLE: Duration = Duration::from_secs(15);

/// Why an endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// The guard sent no trust roots.
    #[error("no trust roots are there, so no endpoint can prove who it is: write [trust] roots")]
    Untrusting,
    /// The name leads nowhere.
    #[error("can't find {0}: {1}")]
    Resolve(Arc<str>, #[source] ResolveError),
    /// The name leads where no endpoint of a cloud is.
    #[error(
        "{0} leads to {1}, where metadata services live or nobody does: refused; who answers for the resolver?"
    )]
    Forbidden(Arc<str>, IpAddr),
    /// Nobody there.
    #[error("can't reach {0}: {1}")]
    Connect(Arc<str>, #[source] io::Error),
    /// It can't prove the name, or speaks no TLS that we speak.
    #[error(
        "{0} doesn't prove who it is: {1}; are its authorities in [trust] roots, and is this machine's clock right?"
    )]
    Unproven(Arc<str>, #[source] io::Error),
    /// The budget is used up.
    #[error("{0} did not answer in time")]
    Late(Arc<str>),
    /// It closed the connection or did not speak HTTP.
    #[error("{0} broke off: {1}")]
    Broken(Arc<str>, #[source] hyper::Error),
    /// Its answer is longer than [`BODY_BYTES`].
    #[error("the answer of {0} is too long or broke off: {1}")]
    Body(Arc<str>, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It sent us somewhere else. Nobody goes there.
    #[error("{0} answered with a redirect, which is never followed: write the endpoint's own URL")]
    Redirect(Arc<str>),
    /// It answered with an interim status that nobody asked for.
    #[error("{0} answered with an interim status")]
    Interim(Arc<str>),
    /// Core wrote something that is no request. A bug, refused rather than sent.
    #[error("not a request: {0}")]
    Request(#[source] hyper::http::Error),
}

/// What came back: body complete, and nothing else of it but what is here.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<HeaderValue>,
    /// Often a credential.
    pub(crate) body: Secret<Bytes>,
}

type Line = SendRequest<Full<Bytes>>;

/// Whose connection it is: name and port.
type Far = (Arc<str>, u16);

/// An idle connection, and since when it is.
#[derive(Debug)]
struct Idle {
    line: Line,
    since: Instant,
}

/// What the guard gave for the way out.
#[derive(Debug)]
struct Setup {
    tls: Tls,
    resolver: Resolver,
}

/// The way out.
#[derive(Debug)]
pub(crate) struct Outbound {
    setup: RefCell<Option<Rc<Setup>>>,
    /// Where nobody is led by a name.
    guarded: RefCell<Rc<[SocketAddr]>>,
    idle: RefCell<HashMap<Far, Vec<Idle>>>,
    room: Semaphore,
}

impl Outbound {
    /// Shut: nothing is trusted until [`Outbound::configure`].
    pub(crate) fn new() -> Self {
        Self {
            setup: RefCell::default(),
            guarded: RefCell::new(Rc::new([])),
            idle: RefCell::default(),
            room: Semaphore::new(AT_ONCE),
        }
    }

    /// Trusts and asks whom these files name, from now on. Connections of before are not used again.
    ///
    /// # Errors
    /// Roots that are none; then everything stays as it was.
    pub(crate) fn configure(&self, files: &OutboundFiles) -> Result<(), TrustError> {
        let setup = Setup {
            tls: Tls::new(&files.roots)?,
            resolver: Resolver::new(files),
        };
        *self.setup.borrow_mut() = Some(Rc::new(setup));
        self.idle.borrow_mut().clear();
        Ok(())
    }

    /// Names lead to none of these addresses from now on: those of the policy in force.
    pub(crate) fn avoid(&self, guarded: impl Iterator<Item = SocketAddr>) {
        *self.guarded.borrow_mut() = guarded.collect();
        self.idle.borrow_mut().clear();
    }

    /// Sends one request within `budget`. `_permit` is the proof that policy allows it.
    pub(crate) async fn send(
        &self,
        _permit: &Permit,
        outgoing: &Outgoing,
        budget: Duration,
    ) -> Result<Answer, OutboundError> {
        let late = || OutboundError::Late(Arc::clone(outgoing.url.host()));
        timeout(budget, self.attempt(outgoing))
            .await
            .map_err(|_| late())?
    }

    /// A kept connection may have been closed by the other side at any time. Then, where no answer has begun, the request is
    /// sent once more, over a new one. Each of ours may be: an exchange changes nothing at the far end, and a credential whose
    /// answer was lost is held by nobody.
    async fn attempt(&self, outgoing: &Outgoing) -> Result<Answer, OutboundError> {
        let setup = self.setup.borrow().clone();
        let setup = setup.ok_or(OutboundError::Untrusting)?;
        // It is never closed.
        let _room = self.room.acquire().await.ok();
        let far = (Arc::clone(outgoing.url.host()), outgoing.url.port());
        if let Some(mut line) = self.kept(&far) {
            match line.send_request(request(outgoing)?).await {
                Ok(response) => return self.finish(&setup, far, line, response).await,
                Err(error) if !is_stale(&error) => {
                    return Err(OutboundError::Broken(far.0, error));
                }
                // Its neighbours are as old.
                Err(_) => drop(self.idle.borrow_mut().remove(&far)),
            }
        }
        let mut line = self.open(&setup, &outgoing.url).await?;
        let response = line
            .send_request(request(outgoing)?)
            .await
            .map_err(|error| OutboundError::Broken(Arc::clone(&far.0), error))?;
        self.finish(&setup, far, line, response).await
    }

    fn kept(&self, far: &Far) -> Option<Line> {
        let mut idle = self.idle.borrow_mut();
        let lines = idle.get_mut(far)?;
        // The newest stands last.
        lines.retain(|idle| idle.line.is_ready() && idle.since.elapsed() < IDLE);
        lines.pop().map(|idle| idle.line)
    }

    async fn open(&self, setup: &Setup, url: &Url) -> Result<Line, OutboundError> {
        let guarded = Rc::clone(&self.guarded.borrow());
        let stream = dial::dial(setup, url, &guarded).await?;
        let (line, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| OutboundError::Broken(Arc::clone(url.host()), error))?;
        tokio::task::spawn_local(async move {
            // Its error reaches the request that is on it; an idle one that the other side closes is no event.
            drop(connection.await);
        });
        Ok(line)
    }

    async fn finish(
        &self,
        setup: &Rc<Setup>,
        far: Far,
        line: Line,
        response: Response<Incoming>,
    ) -> Result<Answer, OutboundError> {
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(OutboundError::Redirect(far.0));
        }
        if head.status.is_informational() {
            return Err(OutboundError::Interim(far.0));
        }
        let body = Limited::new(body, BODY_BYTES)
            .collect()
            .await
            .map_err(|error| OutboundError::Body(Arc::clone(&far.0), error))?
            .to_bytes();
        self.keep(setup, far, line).await;
        Ok(Answer {
            status: head.status,
            retry_after: head.headers.get(hyper::header::RETRY_AFTER).cloned(),
            body: Secret::new(body),
        })
    }

    async fn keep(&self, setup: &Rc<Setup>, far: Far, mut line: Line) {
        // The connection becomes ready, or closed, when its task has seen the end of the answer: at once after the body.
        if line.ready().await.is_err() {
            return;
        }
        // Who it was opened to was proven to other roots.
        let current = self.setup.borrow();
        if !current.as_ref().is_some_and(|now| Rc::ptr_eq(now, setup)) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let lines = idle.entry(far).or_default();
        if lines.len() < KEPT {
            let since = Instant::now();
            lines.push(Idle { line, since });
        }
    }
}

/// Whether the failure is that of a connection which had been closed before the request could be answered.
fn is_stale(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let of_socket = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    let is_reset = |io: &io::Error| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(io.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
    };
    error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || of_socket.is_some_and(is_reset)
}

fn request(outgoing: &Outgoing) -> Result<Request<Full<Bytes>>, OutboundError> {
    let mut request = Request::builder()
        .method(outgoing.method)
        .uri(outgoing.url.target())
        .header(hyper::header::HOST, outgoing.url.authority());
    for (name, value) in &outgoing.headers {
        request = request.header(*name, value.as_str());
    }
    if let Some((name, value)) = &outgoing.secret {
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|e| OutboundError::Request(e.into()))?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    let body = Bytes::copy_from_slice(outgoing.body.expose());
    request
        .body(Full::new(body))
        .map_err(OutboundError::Request)
}
