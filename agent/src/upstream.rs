//! The real metadata service, as this host would reach it without us. The only code that dials it, and nothing gets here
//! without a [`Permit`]. The request that leaves is the one that core rebuilt, never the caller's bytes; redirects are
//! answers like any other and never followed; the answer's body is bounded.
//!
//! Each socket is marked in the kernel before it connects ([`Kernel::mark_upstream`]): that mark, and nothing else, lets it through our
//! own interception.

mod session;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
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
use imds_guard_core::imds::Rebuilt;
use imds_guard_core::seam::{Answer as Told, Ask};
use imds_guard_core::secret::Secret;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::proxy::kernel::Kernel;
use crate::proxy::seam::{AskError, Seam};

/// The longest an upstream may take to accept a connection. It is on this host or one hop away.
pub(crate) const CONNECT: Duration = Duration::from_millis(500);
/// Budget for a credential, connection included: SDKs give up after one second.
pub(crate) const CREDENTIAL_BUDGET: Duration = Duration::from_millis(900);
/// Budget for everything else: some reads really take long. The first of scheduled events, two minutes by its documentation.
pub(crate) const READ_BUDGET: Duration = Duration::from_secs(150);
/// No metadata document is near this size.
pub(crate) const BODY_BYTES: usize = 1024 * 1024;
/// Idle connections kept to one upstream. With fewer than there are callers at once, most would be dialled for one request.
const KEPT: usize = 64;

/// Why the real service gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Nobody there.
    #[error("can't reach the metadata service at {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The kernel would not let the socket be marked.
    #[error("can't mark the socket to the metadata service: {0}")]
    Mark(#[source] io::Error),
    /// There is no socket in the caller's place.
    #[error("can't dial in the caller's place: {0}")]
    Place(#[source] AskError),
    /// The budget is used up.
    #[error("the metadata service did not answer in time")]
    Late,
    /// It closed the connection or did not speak HTTP.
    #[error("the metadata service broke off: {0}")]
    Broken(#[source] hyper::Error),
    /// Its answer is longer than [`BODY_BYTES`].
    #[error("the metadata service's answer is too long or broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It sent the caller somewhere else. Nobody goes there.
    #[error("the metadata service answered with a redirect")]
    Redirect,
    /// It answered with an interim status that nobody asked for, such as a change of protocol.
    #[error("the metadata service answered with an interim status")]
    Interim,
    /// It gives us no session token.
    #[error(
        "the metadata service refuses a session token ({0}): is the instance's HttpEndpoint enabled?"
    )]
    NoSession(StatusCode),
    /// It seems to give us one, and the answer doesn't come.
    #[error(
        "no answer to the request for a session token: where this host is more than one hop away from the metadata service, raise the instance's HttpPutResponseHopLimit"
    )]
    SessionLate,
    /// What it gives us is none.
    #[error("the metadata service gave something that is no session token")]
    SessionToken,
    /// What it gives for a credential is none.
    #[error(
        "the metadata service gave something that is no credential of the kind that was asked for"
    )]
    NoCredential,
    /// What it shows of its tree can't be looked through, so it isn't passed on.
    #[error(
        "the metadata service answered a recursive read with something that can't be looked through for credentials"
    )]
    NoTree,
    /// Core rebuilt something that is no request. A bug, refused rather than sent.
    #[error("not a request: {0}")]
    Request(#[source] hyper::http::Error),
}

/// A metadata service: its address and the number under which the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// Where the caller meant to connect.
    pub(crate) address: SocketAddr,
    /// Its id in the kernel's endpoint table.
    pub(crate) id: u32,
}

/// What came back: hop-by-hop headers removed, body complete.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) retry_after: Option<HeaderValue>,
    pub(crate) etag: Option<HeaderValue>,
    /// Often a token.
    pub(crate) body: Secret<Bytes>,
}

/// By which way a request goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way<'a> {
    /// The host's, over connections that all share. For what policy grants.
    Host,
    /// The caller's own, as if we were not there: over a socket that the guard opens in its place.
    Caller {
        /// Kept for the caller's next request, and closed with its connection.
        own: &'a Own,
        seam: &'a Seam,
        /// The accepted socket.
        caller: BorrowedFd<'a>,
    },
}

/// The connection to the real service that belongs to one connection of a caller.
#[derive(Debug, Default)]
pub(crate) struct Own {
    line: RefCell<Option<Line>>,
    /// AWS: got over it.
    session: RefCell<Option<Secret<Arc<str>>>>,
}

type Line = SendRequest<Full<Bytes>>;

/// Kept-alive connections to the real services.
#[derive(Debug)]
pub(crate) struct Upstream {
    kernel: Rc<dyn Kernel>,
    idle: RefCell<HashMap<Endpoint, Vec<Line>>>,
    sessions: session::Sessions,
}

impl Upstream {
    /// An empty pool.
    pub(crate) fn new(kernel: Rc<dyn Kernel>) -> Self {
        Self {
            kernel,
            idle: RefCell::default(),
            sessions: session::Sessions::default(),
        }
    }

    /// Sends one request within `budget`. `_permit` is the proof that policy allows it.
    pub(crate) async fn send(
        &self,
        _permit: &Permit,
        way: Way<'_>,
        endpoint: Endpoint,
        rebuilt: &Rebuilt,
        body: Bytes,
        budget: Duration,
    ) -> Result<Answer, UpstreamError> {
        timeout(budget, self.attempt(way, endpoint, rebuilt, body))
            .await
            .map_err(|_| UpstreamError::Late)?
    }

    /// A kept connection may have been closed by the other side at any time. Then, and only for what changes nothing and of
    /// which no answer has begun, the request is sent once more, over a new one.
    async fn attempt(
        &self,
        way: Way<'_>,
        endpoint: Endpoint,
        rebuilt: &Rebuilt,
        body: Bytes,
    ) -> Result<Answer, UpstreamError> {
        if let Some(mut line) = self.kept(way, endpoint) {
            let request = outbound(endpoint, rebuilt, body.clone())?;
            match line.send_request(request).await {
                Ok(response) => return self.finish(way, endpoint, line, response).await,
                Err(error) if !rebuilt.is_repeatable() || !is_stale(&error) => {
                    return Err(UpstreamError::Broken(error));
                }
                Err(_) => self.forget(way, endpoint),
            }
        }
        let request = outbound(endpoint, rebuilt, body)?;
        let mut line = self.dial(way, endpoint).await?;
        let response = line
            .send_request(request)
            .await
            .map_err(UpstreamError::Broken)?;
        self.finish(way, endpoint, line, response).await
    }

    fn kept(&self, way: Way<'_>, endpoint: Endpoint) -> Option<Line> {
        if let Way::Caller { own, .. } = way {
            return own.line.take().filter(Line::is_ready);
        }
        let mut idle = self.idle.borrow_mut();
        let lines = idle.get_mut(&endpoint)?;
        std::iter::from_fn(|| lines.pop()).find(Line::is_ready)
    }

    /// Where one kept connection was closed under us, its neighbours are as old.
    fn forget(&self, way: Way<'_>, endpoint: Endpoint) {
        if matches!(way, Way::Caller { .. }) {
            return;
        }
        self.idle.borrow_mut().remove(&endpoint);
    }

    async fn dial(&self, way: Way<'_>, endpoint: Endpoint) -> Result<Line, UpstreamError> {
        let refused = |error| UpstreamError::Connect(endpoint.address, error);
        let socket = match (way, endpoint.address) {
            (Way::Caller { seam, caller, .. }, _) => in_place(seam, caller).await?,
            (Way::Host, SocketAddr::V4(_)) => TcpSocket::new_v4().map_err(refused)?,
            (Way::Host, SocketAddr::V6(_)) => TcpSocket::new_v6().map_err(refused)?,
        };
        socket.set_nodelay(true).map_err(refused)?;
        self.kernel
            .mark_upstream(socket.as_fd(), endpoint.id)
            .map_err(UpstreamError::Mark)?;
        let stream = timeout(CONNECT, socket.connect(endpoint.address))
            .await
            .map_err(|_| refused(io::ErrorKind::TimedOut.into()))?
            .map_err(refused)?;
        let (line, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(UpstreamError::Broken)?;
        tokio::task::spawn_local(async move {
            // Its error reaches the request that is on it; an idle one that the other side closes is no event.
            drop(connection.await);
        });
        Ok(line)
    }

    async fn finish(
        &self,
        way: Way<'_>,
        endpoint: Endpoint,
        line: Line,
        response: Response<Incoming>,
    ) -> Result<Answer, UpstreamError> {
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(UpstreamError::Redirect);
        }
        // 101 above all: towards the caller it would end HTTP on this connection.
        if head.status.is_informational() {
            return Err(UpstreamError::Interim);
        }
        let body = Limited::new(body, BODY_BYTES)
            .collect()
            .await
            .map_err(UpstreamError::Body)?
            .to_bytes();
        self.keep(way, endpoint, line).await;
        let header = |name| head.headers.get(name).cloned();
        Ok(Answer {
            status: head.status,
            content_type: header(hyper::header::CONTENT_TYPE),
            retry_after: header(hyper::header::RETRY_AFTER),
            etag: header(hyper::header::ETAG),
            body: Secret::new(body),
        })
    }

    async fn keep(&self, way: Way<'_>, endpoint: Endpoint, mut line: Line) {
        // The connection becomes ready, or closed, when its task has seen the end of the answer: at once after the body.
        if line.ready().await.is_err() {
            return;
        }
        if let Way::Caller { own, .. } = way {
            own.line.replace(Some(line));
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let lines = idle.entry(endpoint).or_default();
        if lines.len() < KEPT {
            lines.push(line);
        }
    }
}

/// A socket that the guard has opened in the place of the caller on `caller`.
async fn in_place(seam: &Seam, caller: BorrowedFd<'_>) -> Result<TcpSocket, UpstreamError> {
    let reply = seam.ask(caller, |id| Ask::Dial { id }).await;
    let mut reply = reply.map_err(UpstreamError::Place)?;
    match (&reply.answer, reply.fds.pop()) {
        (Told::Dialling { .. }, Some(fd)) => Ok(TcpSocket::from_std_stream(fd.into())),
        _ => Err(UpstreamError::Place(AskError::Mismatch)),
    }
}

/// Whether the failure is that of a connection which had been closed before the request could be answered.
fn is_stale(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || is_reset(error)
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|io| {
            matches!(
                io.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        })
}

/// The rebuilt request with the headers that only the sender knows. No `Via`, no `Forwarded`: the real services refuse them.
fn outbound(
    endpoint: Endpoint,
    rebuilt: &Rebuilt,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, UpstreamError> {
    let host = match endpoint.address.port() {
        80 => match endpoint.address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        },
        _ => endpoint.address.to_string(),
    };
    let mut request = Request::builder()
        .method(rebuilt.method)
        .uri(rebuilt.target.as_str())
        .header(hyper::header::HOST, host);
    for (name, value) in &rebuilt.headers {
        request = request.header(name.as_str(), value.as_str());
    }
    if let Some((name, value)) = &rebuilt.secret {
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|e| UpstreamError::Request(e.into()))?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    request
        .body(Full::new(body))
        .map_err(UpstreamError::Request)
}

#[cfg(test)]
pub(crate) mod tests;
