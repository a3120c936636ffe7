//! One GET over HTTPS, as a cloud fetches an issuer's documents: without redirects, within five seconds.

use std::io::{ErrorKind, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use imds_guard_core::exchange::Url;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

use crate::outbound::trust;

/// What AWS waits for.
const PATIENCE: Duration = Duration::from_secs(5);
/// No issuer's documents are near it.
const BYTES: usize = 1 << 20;

/// The JSON at `url`, vouched for by an authority in the file `roots`.
pub(super) fn json(url: &str, roots: &Path) -> Result<Value> {
    let url = Url::parse(url)?;
    let pem = std::fs::read_to_string(roots)
        .with_context(|| format!("can't read the trust roots in {}", roots.display()))?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust::roots(&pem)?)
        .with_no_client_auth();
    let mut found = (&**url.host(), url.port()).to_socket_addrs()?;
    let at = found.next().context("the name leads nowhere")?;
    let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(url.host().to_string())?;
    let client = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = StreamOwned::new(client, stream);
    let (target, host) = (url.target(), url.authority());
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )?;
    read(&whole(stream)?)
}

/// An answer, as long as it says that it is; one that doesn't say ends with the connection, also where that ends without a word of
/// TLS: what is cut short isn't JSON.
fn whole(mut stream: impl Read) -> Result<Vec<u8>> {
    let (mut bytes, mut chunk) = (vec![], [0; 4096]);
    while !is_whole(&bytes) {
        ensure!(bytes.len() < BYTES, "it is longer than {BYTES} bytes");
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    match length {
        Some(length) => body.len() >= length,
        None => head.contains("transfer-encoding:") && joined(body).is_some(),
    }
}

/// The JSON in an answer that a cloud would take.
fn read(answer: &[u8]) -> Result<Value> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(
        status == "200",
        "it answers with status {status}; clouds want 200, and follow nothing"
    );
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(n, _)| n.trim() == name);
        found.next().map(|(_, value)| value.trim())
    };
    let json = field("content-type").is_some_and(|kind| kind.contains("application/json"));
    ensure!(json, "its Content-Type isn't application/json");
    let body = &answer[end + 4..];
    let joined = match field("transfer-encoding") {
        Some(_) => joined(body).context("its chunks aren't whole")?,
        None => body.to_vec(),
    };
    serde_json::from_slice(&joined).context("it isn't JSON")
}

/// A chunked body (RFC 9112, section 7.1).
fn joined(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut all = vec![];
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n")?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(all);
        }
        let (chunk, rest) = body[end + 2..].split_at_checked(size)?;
        all.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_a_cloud_would_take_is_read_and_nothing_else() {
        let answer = |head: &str, body: &str| {
            let text = format!("HTTP/1.1 {head}\r\n\r\n{body}");
            read(text.as_bytes()).map_err(|error| error.to_string())
        };
        const JSON: &str = "200 OK\r\nContent-Type: application/json";
        assert_eq!(answer(JSON, "{\"a\":1}").unwrap()["a"], 1);
        let chunked = format!("{JSON}\r\nTransfer-Encoding: chunked");
        let body = "4;x=y\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n";
        assert_eq!(answer(&chunked, body).unwrap()["a"], 1);
        for (head, body, why) in [
            ("301 Moved\r\nLocation: /", "", "status 301"),
            (
                "200 OK\r\nContent-Type: text/html",
                "{}",
                "application/json",
            ),
            (JSON, "{\"a\":", "isn't JSON"),
            (&chunked, "ffff\r\n{", "aren't whole"),
            (&chunked, "-1\r\n{", "aren't whole"),
        ] {
            let told = answer(head, body).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        assert!(read(b"nothing").is_err());
    }
}
