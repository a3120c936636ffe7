//! A server where Azure's metadata service stands, at 169.254.169.254:80 of a world: the fake at the internet's place.
//!
//! It keeps what it was asked, so that a test can say what did *not* reach the real service. Its token is a canary: found in
//! an answer to somebody without a grant, or in a log, it proves a leak.

use crate::{AZURE_IMDS, World};
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// The access token that the service gives to everybody who asks it.
pub const UPSTREAM_TOKEN: &str = "canary-of-the-real-service";

/// One request that reached it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method, target and version.
    pub line: String,
    /// Each header, as it came.
    pub headers: Vec<String>,
}

/// The running server; it ends with the process.
#[derive(Debug, Clone)]
pub struct FakeAzure {
    received: Arc<Mutex<Vec<Received>>>,
}

impl FakeAzure {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let listener = world.enter(|| {
            TcpListener::bind(AZURE_IMDS).context("bind the metadata address inside the world")
        })?;
        let received = Arc::default();
        let server = Self {
            received: Arc::clone(&received),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(&stream, &received));
            }
        });
        Ok(server)
    }

    /// All that was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn serve(stream: &TcpStream, received: &Mutex<Vec<Received>>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = lines.next()?.ok()?;
        let headers: Vec<String> = lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|l| !l.is_empty())
            .collect();
        let (status, body) = answer(&line, &headers);
        received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Received { line, headers });
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nServer: IMDS/150.870.65.1854\r\n"
        );
        write!(
            &mut &*stream,
            "{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
    }
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
