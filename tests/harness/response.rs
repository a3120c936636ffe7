//! An HTTP answer, read byte by byte as it came: no client library smooths over what the agent said.

use anyhow::{Context, Result, bail};
use std::io::Read;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Status line and headers, as they came.
    pub head: String,
    /// The body, as many bytes as Content-Length said.
    pub body: Vec<u8>,
}

impl Response {
    /// Read one from `stream`; `held` keeps what came beyond it.
    ///
    /// # Errors
    /// When the connection ends before it is whole, or it isn't HTTP.
    pub fn read(stream: &mut impl Read, held: &mut Vec<u8>) -> Result<Self> {
        let end = loop {
            if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            more(stream, held).context("before the end of an answer's head")?;
        };
        let head = String::from_utf8(held.drain(..end).collect())
            .context("an answer's head that isn't text")?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("not HTTP: {head:?}"))?;
        let length = header(&head, "content-length")
            .map_or(Ok(0), str::parse)
            .context("Content-Length")?;
        while held.len() < length {
            more(stream, held).context("before the end of an answer's body")?;
        }
        Ok(Self {
            status,
            body: held.drain(..length).collect(),
            head,
        })
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it isn't.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn more(stream: &mut impl Read, held: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk)? {
        0 => bail!(
            "the connection closed; had {:?}",
            String::from_utf8_lossy(held)
        ),
        n => held.extend_from_slice(&chunk[..n]),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_in_one_read_stay_two() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        let (mut stream, mut held) = (&bytes[..], Vec::new());
        let first = Response::read(&mut stream, &mut held).unwrap();
        assert_eq!((first.status, first.text().as_str()), (200, "ok"));
        assert_eq!(Response::read(&mut stream, &mut held).unwrap().status, 403);
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let (mut stream, mut held) = (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"[..],
            Vec::new(),
        );
        assert!(Response::read(&mut stream, &mut held).is_err());
    }
}
