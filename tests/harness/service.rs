//! What the servers that stand for the clouds' services share: whole requests of HTTP/1.1 read and kept, answers written, and
//! what goes wrong with them for a while. What they refuse and answer is each one's own.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One request that reached such a server.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method, target and version.
    pub line: String,
    /// Each header, as it came.
    pub headers: Vec<String>,
    /// As many bytes as `Content-Length` said.
    pub body: String,
    /// Whose address it came from.
    pub from: IpAddr,
}

impl Received {
    /// The next one; none where the caller has gone.
    pub(crate) fn read(reader: &mut impl BufRead, from: IpAddr) -> Option<Self> {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut headers = vec![];
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            match header.trim_end() {
                "" => break,
                header => headers.push(header.to_owned()),
            }
        }
        let mut received = Self {
            line: line.trim_end().to_owned(),
            headers,
            body: String::new(),
            from,
        };
        let length = received.header("content-length");
        let mut body = vec![0; length.and_then(|n| n.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        received.body = String::from_utf8_lossy(&body).into_owned();
        Some(received)
    }

    /// Method, path, and query without its question mark.
    #[must_use]
    pub fn parts(&self) -> (&str, &str, &str) {
        let (method, rest) = self.line.split_once(' ').unwrap_or((&self.line, ""));
        let target = rest.split(' ').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        (method, path, query)
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|h| h.split_once(':'));
        let found = pairs.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// What goes wrong with an answer that gives a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It comes after so long.
    Late(Duration),
    /// It is a refusal with this status line, and perhaps further headers behind it.
    Status(&'static str),
}

/// What is common to a server's connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    received: Arc<Mutex<Vec<Received>>>,
    trouble: Arc<Mutex<Option<(Trouble, u32)>>>,
}

impl Service {
    /// All that was asked so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.received).clone()
    }

    /// The request lines so far, without the version.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |received: &Received| received.line.trim_end_matches(" HTTP/1.1").to_owned();
        locked(&self.received).iter().map(line).collect()
    }

    /// The next so many credentials meet this.
    pub(crate) fn fails(&self, trouble: Trouble, times: u32) {
        *locked(&self.trouble) = Some((trouble, times));
    }

    /// What goes wrong with the credential that is asked for now: counted. Lateness is waited out here.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let mut held = locked(&self.trouble);
        let (trouble, left) = held.as_mut()?;
        *left = left.checked_sub(1)?;
        let trouble = *trouble;
        drop(held);
        match trouble {
            Trouble::Status(status) => Some(status),
            Trouble::Late(after) => {
                std::thread::sleep(after);
                None
            }
        }
    }

    /// Reads requests of one connection and keeps each; `answer` says the bytes, and whether the connection goes on.
    pub(crate) fn serve(
        &self,
        stream: &TcpStream,
        mut answer: impl FnMut(&Received) -> Option<(Vec<u8>, bool)>,
    ) {
        let from = stream
            .peer_addr()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let mut reader = BufReader::new(stream);
        while let Some(received) = Received::read(&mut reader, from) {
            locked(&self.received).push(received.clone());
            let Some((bytes, goes_on)) = answer(&received) else {
                return;
            };
            if (&mut &*stream).write_all(&bytes).is_err() || !goes_on {
                return;
            }
        }
    }
}

/// A thread for each connection, for as long as the process lives.
pub(crate) fn accept(
    listener: Arc<TcpListener>,
    serve: impl Fn(&TcpStream) + Send + Sync + 'static,
) {
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(&stream));
        }
    });
}

/// What a panicking test left is as good as before.
pub(crate) fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer, but for the headers that a service puts on all of its own.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) media: &'static str,
    pub(crate) extra: String,
    pub(crate) body: String,
}

impl Answer {
    /// With status 200.
    pub(crate) fn of(media: &'static str, body: impl Into<String>) -> Self {
        Self {
            status: "200 OK",
            media,
            extra: String::new(),
            body: body.into(),
        }
    }

    /// The bytes, with `own` headers, each with its line's end.
    pub(crate) fn bytes(&self, own: &str) -> Vec<u8> {
        let Self {
            status,
            media,
            extra,
            body,
        } = self;
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{own}Content-Type: {media}\r\n{extra}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_no_request() {
        let mut bytes =
            &b"POST /a?b=c HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET GET /d HTTP/1.1\r\n\r\n"[..];
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = Received::read(&mut bytes, from).unwrap();
        assert_eq!(first.parts(), ("POST", "/a", "b=c"));
        assert_eq!(first.body, "GET ");
        let second = Received::read(&mut bytes, from).unwrap();
        assert_eq!(second.parts(), ("GET", "/d", ""));
        assert!(Received::read(&mut bytes, from).is_none());
    }

    #[test]
    fn trouble_ends_after_its_times() {
        let service = Service::default();
        assert_eq!(service.refusal(), None);
        service.fails(Trouble::Status("500 x"), 2);
        let said: Vec<_> = (0..3).map(|_| service.refusal()).collect();
        assert_eq!(said, [Some("500 x"), Some("500 x"), None]);
    }
}
