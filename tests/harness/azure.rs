//! A server where Azure's metadata service stands, at 169.254.169.254:80 of a world: the fake at the internet's place.
//!
//! It keeps what it was asked, so that a test can say what did *not* reach the real service. Its token is a canary: found in
//! an answer to somebody without a grant, or in a log, it proves a leak.

use crate::service::{Answer, Received, Service, Trouble, accept, locked};
use crate::{AZURE_IMDS, AZURE_WIRESERVER, World};
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The access token that the service gives to everybody who asks it.
pub const UPSTREAM_TOKEN: &str = "canary-of-the-real-service";

/// How it behaves, beside answering as the real service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Keeps its connections.
    #[default]
    Keeps,
    /// Closes each connection behind its answer, without a word about it before.
    Closes,
    /// Answers after so long.
    Late(Duration),
    /// Takes requests and answers none.
    Silent,
    /// Answers each request with a body of this many bytes.
    Sized(usize),
    /// Sends each caller to its own token endpoint.
    Redirects,
}

/// The running server; it ends with the process.
#[derive(Debug, Clone)]
pub struct FakeAzure {
    service: Service,
    connections: Arc<AtomicUsize>,
    manner: Arc<Mutex<Manner>>,
    lifetime: Arc<AtomicU32>,
    events: Arc<(Mutex<u32>, Condvar)>,
    listener: Arc<TcpListener>,
}

impl FakeAzure {
    pub(crate) fn start(world: &World) -> Result<Self> {
        Self::listen(|| world.enter_cloud(bind))
    }

    /// Serve what `bind` gives.
    pub(crate) fn listen(bind: impl FnOnce() -> Result<TcpListener>) -> Result<Self> {
        let listener = Arc::new(bind()?);
        let server = Self {
            service: Service::default(),
            connections: Arc::default(),
            manner: Arc::default(),
            lifetime: Arc::new(AtomicU32::new(86_399)),
            events: Arc::default(),
            listener: Arc::clone(&listener),
        };
        server.accept(listener);
        Ok(server)
    }

    fn accept(&self, listener: Arc<TcpListener>) {
        let server = self.clone();
        accept(listener, move |stream| {
            server.connections.fetch_add(1, Ordering::Relaxed);
            server
                .service
                .serve(stream, |received| server.answer(received));
        });
    }

    /// Stand where the wireserver stands as well, which answers the same paths (and its own with 404).
    ///
    /// # Errors
    /// When it can't listen.
    pub fn at_the_wireserver(&self, world: &World) -> Result<()> {
        let bind = || TcpListener::bind(AZURE_WIRESERVER).context("bind the wireserver's address");
        self.accept(Arc::new(world.enter_cloud(bind)?));
        Ok(())
    }

    /// Behave like this from the next request on.
    pub fn behave(&self, manner: Manner) {
        *locked(&self.manner) = manner;
    }

    /// The next so many tokens meet this.
    pub fn fails(&self, trouble: Trouble, times: u32) {
        self.service.fails(trouble, times);
    }

    /// Tokens given from now on live so many seconds.
    pub fn lifetime(&self, seconds: u32) {
        self.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// A scheduled event: whoever waits for the first answer is answered. Until there is one, that answer hangs, as the real
    /// one does for up to two minutes.
    pub fn event(&self) {
        *locked(&self.events.0) += 1;
        self.events.1.notify_all();
    }

    /// Send packets that live for so many hops, as clouds do to keep containers out. From the next connection on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hop_limit(&self, hops: u32) -> Result<()> {
        self.listener.set_ttl(hops).context("set the hop limit")
    }

    /// How many connections it took so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// All that was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.service.received()
    }

    /// The request lines so far, without the version.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.service.lines()
    }

    fn answer(&self, received: &Received) -> Option<(Vec<u8>, bool)> {
        let manner = *locked(&self.manner);
        let bytes = match manner {
            Manner::Silent => {
                // Longer than any credential's budget; its caller has left by then.
                std::thread::sleep(Duration::from_secs(5));
                return None;
            }
            Manner::Sized(size) => Answer::of(JSON, "x".repeat(size)).bytes(SERVER),
            Manner::Redirects => refusal(REDIRECT, "").bytes(SERVER),
            Manner::Late(after) => {
                std::thread::sleep(after);
                self.said(received).bytes(SERVER)
            }
            Manner::Keeps | Manner::Closes => self.said(received).bytes(SERVER),
        };
        Some((bytes, manner != Manner::Closes))
    }

    fn said(&self, received: &Received) -> Answer {
        let (method, path, query) = received.parts();
        if received.header("x-forwarded-for").is_some() {
            return refusal("400 Bad Request", r#"{ "error": "Bad request" }"#);
        }
        let header = received.header("metadata").unwrap_or_default();
        if path.starts_with("/metadata") && !header.eq_ignore_ascii_case("true") {
            let body = r#"{ "error": "Bad request. Required metadata header not specified" }"#;
            return refusal("400 Bad Request", body);
        }
        match (method, path) {
            ("GET", "/metadata/identity/oauth2/token") => self.token(query),
            ("GET", "/metadata/scheduledevents") => self.scheduled(),
            ("POST", "/metadata/scheduledevents") => approved(&received.body),
            ("GET", _) => document(path),
            _ => refusal(
                "405 Method Not Allowed",
                r#"{ "error": "Method not allowed" }"#,
            ),
        }
    }

    fn token(&self, query: &str) -> Answer {
        if let Some(status) = self.service.refusal() {
            let body =
                r#"{"error":"unknown","error_description":"in trouble, says the real service"}"#;
            return refusal(status, body);
        }
        let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let client = asked("client_id=").unwrap_or("00000000-0000-0000-0000-000000000000");
        let seconds = self.lifetime.load(Ordering::Relaxed);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let ends = now + u64::from(seconds);
        Answer::of(
            JSON,
            format!(
                r#"{{"access_token":"{UPSTREAM_TOKEN}","client_id":"{client}","expires_in":"{seconds}","expires_on":"{ends}","ext_expires_in":"{seconds}","not_before":"1","resource":"upstream","token_type":"Bearer"}}"#
            ),
        )
    }

    fn scheduled(&self) -> Answer {
        let (count, came) = &*self.events;
        let waited = came.wait_timeout_while(locked(count), LONGEST, |count| *count == 0);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Answer::of(
            JSON,
            format!(r#"{{"DocumentIncarnation":{count},"Events":[]}}"#),
        )
    }
}

/// So long the first answer about scheduled events may take.
const LONGEST: Duration = Duration::from_secs(120);

/// The place of the real service, in the calling thread's namespace.
pub(crate) fn bind() -> Result<TcpListener> {
    TcpListener::bind(AZURE_IMDS).context("bind the metadata address where the cloud is")
}

const REDIRECT: &str = "302 Found\r\nLocation: http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=redirected";

const JSON: &str = "application/json; charset=utf-8";
const SERVER: &str = "Server: IMDS/150.870.65.1854\r\n";

fn refusal(status: &'static str, body: &str) -> Answer {
    Answer {
        status,
        ..Answer::of(JSON, body)
    }
}

/// As the service does, whatever media type the body claims to be of.
fn approved(body: &str) -> Answer {
    if body.contains(r#""StartRequests""#) && body.contains("EventId") {
        Answer::of(JSON, "")
    } else {
        refusal("400 Bad Request", r#"{ "error": "Bad request" }"#)
    }
}

fn document(path: &str) -> Answer {
    match path {
        "/metadata/instance/compute" => {
            Answer::of(JSON, r#"{"name":"upstream","location":"nowhere"}"#)
        }
        path if path.starts_with("/metadata/instance") => {
            let tags = "t".repeat(1600);
            Answer::of(
                JSON,
                format!(
                    r#"{{"compute":{{"name":"upstream","location":"nowhere","tags":"{tags}"}}}}"#
                ),
            )
        }
        "/metadata/attested/document" => Answer::of(
            JSON,
            r#"{"encoding":"pkcs7","signature":"canary-of-a-signature"}"#,
        ),
        "/metadata/loadbalancer" => Answer::of(
            JSON,
            r#"{"loadbalancer":{"publicIpAddresses":[],"inboundRules":[{"frontendPort":80}],"outboundRules":[]}}"#,
        ),
        _ => refusal("404 Not Found", r#"{ "error": "Not found" }"#),
    }
}
