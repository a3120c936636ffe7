//! One GET over HTTPS, as a cloud fetches an issuer's documents: without redirects, within five seconds.

use std::io::{Read as _, Write as _};
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
const BYTES: u64 = 1 << 20;

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
        "GET {target} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n"
    )?;
    body(&mut stream)
}

/// The server closes behind it: HTTP/1.0 was asked for. Where it says how long the body is, that much is enough.
fn body(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Result<Value> {
    let mut bytes = vec![];
    let mut chunk = [0; 4096];
    let (head, from) = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break (
                String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase(),
                end + 4,
            );
        }
        let count = stream.read(&mut chunk)?;
        ensure!(
            count > 0 && bytes.len() < chunk.len() * 16,
            "no HTTP answer"
        );
        bytes.extend_from_slice(&chunk[..count]);
    };
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(
        status == "200",
        "it answers with status {status}; clouds want 200, and follow nothing"
    );
    let json = head
        .lines()
        .any(|line| line.starts_with("content-type:") && line.contains("application/json"));
    ensure!(json, "its Content-Type isn't application/json");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    match length.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(length) => {
            ensure!(length <= BYTES, "it is longer than {BYTES} bytes");
            let have = u64::try_from(bytes.len() - from)?;
            stream
                .take(length.saturating_sub(have))
                .read_to_end(&mut bytes)?;
        }
        None => {
            stream.take(BYTES).read_to_end(&mut bytes)?;
        }
    }
    serde_json::from_slice(&bytes[from..]).context("it isn't JSON")
}
