//! What a far end was asked, and what it answers.

use anyhow::{Context, Result, bail, ensure};
use std::io::BufRead;
use std::time::Duration;

/// Longest head and longest body that a far end reads: no client of a token endpoint is near either.
const HEAD_BYTES: u64 = 64 * 1024;
const BODY_BYTES: usize = 1024 * 1024;

/// A request, as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// The name that the client asked for when the connection began (SNI).
    pub name: String,
    /// Which connection of this far end it came over, from 1.
    pub connection: usize,
    /// `GET`, `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In their order, names as written.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text; what isn't is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The pairs of a form (`application/x-www-form-urlencoded`), decoded, in their order.
    #[must_use]
    pub fn form(&self) -> Vec<(String, String)> {
        pairs(&self.text())
    }

    /// The pairs of the query, decoded.
    #[must_use]
    pub fn query(&self) -> Vec<(String, String)> {
        pairs(self.target.split_once('?').map_or("", |(_, query)| query))
    }

    /// The next request of a connection; none where it ended between two.
    pub(crate) fn read(
        from: &mut impl BufRead,
        name: &str,
        connection: usize,
    ) -> Result<Option<Self>> {
        let mut left = HEAD_BYTES;
        let first = line(from, &mut left)?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1"), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("no request line: {first:?}");
        };
        let mut headers = vec![];
        loop {
            let header = line(from, &mut left)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').context("no header")?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Self {
            name: name.to_owned(),
            connection,
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: vec![],
        };
        ensure!(
            request.header("transfer-encoding").is_none(),
            "a body of unknown length"
        );
        let length = request.header("content-length").map(str::parse::<usize>);
        let length = length.transpose()?.unwrap_or(0);
        ensure!(length <= BODY_BYTES, "a body of {length} bytes");
        request.body.resize(length, 0);
        from.read_exact(&mut request.body)?;
        Ok(Some(request))
    }
}

/// One line without its end; empty at the end of the stream, too.
fn line(from: &mut impl BufRead, left: &mut u64) -> Result<String> {
    let mut text = String::new();
    let read = std::io::Read::take(&mut *from, *left).read_line(&mut text)?;
    *left -= read as u64;
    ensure!(
        text.is_empty() || text.ends_with("\r\n"),
        "a line without an end"
    );
    Ok(text.trim_end_matches("\r\n").to_owned())
}

fn pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (vec![], 0);
    while let Some(byte) = bytes.get(at) {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                plain.push(value);
                at += 2;
            }
            (b'+', _) => plain.push(b' '),
            (byte, _) => plain.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// With it, the reason phrase is left empty, as HTTP allows.
    pub status: u16,
    /// Beside `Content-Length`, which is added.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
    /// How long it is before the answer begins.
    pub after: Duration,
    /// What becomes of the connection.
    pub end: End,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Kept for the next request.
    Kept,
    /// Closed, and the answer says so.
    Closed,
    /// Closed after the answer without a word before: the client finds out at its next request.
    HungUp,
    /// Closed in the middle of the body.
    Cut,
    /// Closed in place of an answer.
    Dropped,
}

impl Reply {
    /// An answer without headers.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![],
            body: body.into(),
            after: Duration::ZERO,
            end: End::Kept,
        }
    }

    /// With `Content-Type: application/json`.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, body).with("Content-Type", "application/json; charset=utf-8")
    }

    /// With `Content-Type: text/xml`, as Amazon's.
    #[must_use]
    pub fn xml(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, body).with("Content-Type", "text/xml")
    }

    /// With this header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Not before so long.
    #[must_use]
    pub const fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// What becomes of the connection.
    #[must_use]
    pub const fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// The bytes that are sent.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if self.end == End::Dropped {
            return vec![];
        }
        let mut head = format!(
            "HTTP/1.1 {} \r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        if self.end == End::Closed {
            head.push_str("Connection: close\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let body = match self.end {
            End::Cut => &self.body[..self.body.len() / 2],
            _ => &self.body[..],
        };
        [head.as_bytes(), body].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_whole_and_the_next_one_follows() {
        let bytes = b"POST /t?a=%2Fb HTTP/1.1\r\nHost: x\r\ncontent-length: 9\r\n\r\nk=a%20b+cGET / HTTP/1.1\r\n\r\n";
        let mut from = &bytes[..];
        let first = Request::read(&mut from, "x", 1).unwrap().unwrap();
        assert_eq!(first.header("HOST"), Some("x"));
        assert_eq!(first.form(), [("k".to_owned(), "a b c".to_owned())]);
        assert_eq!(first.query(), [("a".to_owned(), "/b".to_owned())]);
        let second = Request::read(&mut from, "x", 1).unwrap().unwrap();
        assert_eq!((&*second.method, &*second.target), ("GET", "/"));
        assert!(Request::read(&mut from, "x", 1).unwrap().is_none());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in [
            "GET /\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x",
            "GET / HTTP/1.1\r\nno header\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nshort".trim_end_matches("ort"),
        ] {
            assert!(
                Request::read(&mut bad.as_bytes(), "x", 1).is_err(),
                "{bad:?}"
            );
        }
    }
}
