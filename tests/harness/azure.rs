//! A server where Azure's metadata service stands, at 169.254.169.254:80 of a world: the fake at the internet's place.
//!
//! It keeps what it was asked, so that a test can say what did *not* reach the real service. Its token is a canary: found in
//! an answer to somebody without a grant, or in a log, it proves a leak.

use crate::{AZURE_IMDS, World};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The access token that the service gives to everybody who asks it.
pub const UPSTREAM_TOKEN: &str = "canary-of-the-real-service";

/// One request that reached it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method, target and version.
    pub line: String,
    /// Each header, as it came.
    pub headers: Vec<String>,
    /// Whose address it came from.
    pub from: IpAddr,
}

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
#[derive(Debug, Clone, Default)]
pub struct FakeAzure {
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    manner: Arc<Mutex<Manner>>,
    listener: Option<Arc<TcpListener>>,
}

impl FakeAzure {
    pub(crate) fn start(world: &World) -> Result<Self> {
        Self::listen(|| world.enter_cloud(bind))
    }

    /// Serve what `bind` gives.
    pub(crate) fn listen(bind: impl FnOnce() -> Result<TcpListener>) -> Result<Self> {
        let listener = Arc::new(bind()?);
        let server = Self {
            listener: Some(Arc::clone(&listener)),
            ..Self::default()
        };
        let accepting = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let server = accepting.clone();
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        Ok(server)
    }

    /// Behave like this from the next request on.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Send packets that live for so many hops, as clouds do to keep containers out. From the next connection on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hop_limit(&self, hops: u32) -> Result<()> {
        let listener = self.listener.as_ref().context("not listening")?;
        listener.set_ttl(hops).context("set the hop limit")
    }

    /// How many connections it took so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// All that was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let from = stream
            .peer_addr()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let mut lines = BufReader::new(stream).lines();
        loop {
            let line = lines.next()?.ok()?;
            let headers: Vec<String> = lines
                .by_ref()
                .map_while(Result::ok)
                .take_while(|l| !l.is_empty())
                .collect();
            let (status, body) = answer(&line, &headers);
            self.received
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Received {
                    line,
                    headers,
                    from,
                });
            let manner = *self.manner.lock().unwrap_or_else(PoisonError::into_inner);
            match manner {
                Manner::Silent => {
                    // Longer than any credential's budget; its caller has left by then.
                    std::thread::sleep(Duration::from_secs(5));
                    return None;
                }
                Manner::Sized(size) => reply(stream, "200 OK", &"x".repeat(size))?,
                Manner::Redirects => reply(stream, REDIRECT, "")?,
                Manner::Late(after) => {
                    std::thread::sleep(after);
                    reply(stream, status, &body)?;
                }
                Manner::Keeps | Manner::Closes => reply(stream, status, &body)?,
            }
            if manner == Manner::Closes {
                return None;
            }
        }
    }
}

/// The place of the real service, in the calling thread's namespace.
pub(crate) fn bind() -> Result<TcpListener> {
    TcpListener::bind(AZURE_IMDS).context("bind the metadata address where the cloud is")
}

const REDIRECT: &str = "302 Found\r\nLocation: http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=redirected";

fn reply(mut stream: &TcpStream, status: &str, body: &str) -> Option<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nServer: IMDS/150.870.65.1854\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

fn answer(line: &str, headers: &[String]) -> (&'static str, String) {
    if !headers
        .iter()
        .any(|h| h.to_ascii_lowercase().replace(' ', "") == "metadata:true")
    {
        return (
            "400 Bad Request",
            r#"{ "error": "Bad request. Required metadata header not specified" }"#.into(),
        );
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    if target.starts_with("/metadata/identity/oauth2/token") {
        let body = format!(
            r#"{{"access_token":"{UPSTREAM_TOKEN}","client_id":"00000000-0000-0000-0000-000000000000","expires_in":"86399","expires_on":"4102444800","ext_expires_in":"86399","not_before":"1","resource":"upstream","token_type":"Bearer"}}"#
        );
        return ("200 OK", body);
    }
    if target.split('?').next() == Some("/metadata/instance/compute") {
        let body = r#"{"name":"upstream","location":"nowhere"}"#;
        return ("200 OK", body.into());
    }
    if target.starts_with("/metadata/instance") {
        return (
            "200 OK",
            format!(
                r#"{{"compute":{{"name":"upstream","location":"nowhere","tags":"{}"}}}}"#,
                "t".repeat(1600)
            ),
        );
    }
    ("404 Not Found", r#"{ "error": "Not found" }"#.into())
}
