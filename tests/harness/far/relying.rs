//! A relying party, strict: what it knows of an issuer it has fetched over TLS, as the clouds do, and every comparison is to the
//! letter.

use super::{FarEnds, now};
use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What Entra keeps of a key set, and AWS takes at most.
const KEYS: usize = 100;
/// As the clouds allow for clocks.
const SKEW: i64 = 300;

/// How issuers are reached, and whom a relying party believes.
#[derive(Clone)]
pub struct Trust {
    tls: Arc<ClientConfig>,
    /// The world's hosts file.
    hosts: PathBuf,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

/// Why an assertion isn't believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// It is no JWT of ours, or has what it must not have.
    Form(String),
    /// The issuer's documents can't be had, or aren't right.
    Documents(String),
    /// Not signed by any of its keys.
    Signature,
    /// Not valid now.
    Time,
}

impl Trust {
    pub(crate) fn new(ends: &FarEnds<'_>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(ends.authority().pem().as_bytes())?;
        store.add(root)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            hosts: ends.hosts(),
        })
    }

    /// The claims of `token`, its header, signature and times checked, by the documents that its own `iss` publishes. Whether that
    /// issuer is trusted is for whoever asks.
    ///
    /// # Errors
    /// Why it isn't believed.
    pub fn verified(&self, token: &str) -> Result<Value, Rejected> {
        let (header, claims) = parts(token).map_err(|e| Rejected::Form(e.to_string()))?;
        let issuer = claims["iss"].as_str().unwrap_or_default();
        let keys = self
            .keys(issuer)
            .map_err(|e| Rejected::Documents(format!("{e:#}")))?;
        let key = keys.iter().find(|key| key["kid"] == header["kid"]);
        let key = key.ok_or(Rejected::Signature)?;
        let text = |name: &str| key[name].as_str().unwrap_or_default();
        let key = DecodingKey::from_rsa_components(text("n"), text("e"));
        let key = key.map_err(|_| Rejected::Signature)?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|_| Rejected::Signature)?;
        let time = |name: &str| claims[name].as_i64();
        let (Some(iat), Some(exp)) = (time("iat"), time("exp")) else {
            return Err(Rejected::Form("no iat or exp".to_owned()));
        };
        if exp - iat > 600 || exp - iat < 300 {
            return Err(Rejected::Form(format!("it lives {} s", exp - iat)));
        }
        let begins = time("nbf").unwrap_or(iat);
        if exp + SKEW <= now() || iat > now() || begins > now() {
            return Err(Rejected::Time);
        }
        Ok(claims)
    }

    fn keys(&self, issuer: &str) -> Result<Vec<Value>> {
        let discovery = self.json(&format!("{issuer}/.well-known/openid-configuration"))?;
        ensure!(
            discovery["issuer"] == issuer,
            "discovery names another issuer"
        );
        for name in [
            "response_types_supported",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
        ] {
            ensure!(discovery[name].is_array(), "discovery lacks {name}");
        }
        let keys = self.json(discovery["jwks_uri"].as_str().context("no jwks_uri")?)?;
        let keys = keys["keys"].as_array().context("no keys")?.clone();
        ensure!((1..=KEYS).contains(&keys.len()), "{} keys", keys.len());
        for key in &keys {
            for (name, value) in [("kty", "RSA"), ("use", "sig"), ("alg", "RS256")] {
                ensure!(key[name] == value, "a key whose {name} is {}", key[name]);
            }
            for private in ["d", "p", "q", "dp", "dq", "qi"] {
                ensure!(key.get(private).is_none(), "a private key is published");
            }
            let modulus = key["n"].as_str().context("no modulus")?;
            ensure!(
                modulus.len() >= 2048 / 6,
                "a key of {} characters",
                modulus.len()
            );
        }
        Ok(keys)
    }

    fn json(&self, url: &str) -> Result<Value> {
        let rest = url.strip_prefix("https://").context("no https URL")?;
        let (host, path) = rest.split_once('/').context("no path")?;
        let hosts = std::fs::read_to_string(&self.hosts)?;
        let line = hosts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(host))
            .with_context(|| format!("nobody is called {host}"))?;
        let at: IpAddr = line.split(' ').next().unwrap_or_default().parse()?;
        let at = SocketAddr::new(at, 443);
        let stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let name = ServerName::try_from(host.to_owned())?;
        let client = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut stream = StreamOwned::new(client, stream);
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let answer = read(&mut stream)?;
        serde_json::from_slice(&answer).context("no JSON")
    }
}

/// The body of a 200 that says how long it is, and is JSON.
fn read(stream: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "{head}");
            ensure!(head.contains("content-type: application/json"), "{head}");
            let length = head.split("content-length: ").nth(1).context("no length")?;
            let length: usize = length.lines().next().unwrap_or_default().trim().parse()?;
            if bytes.len() >= end + 4 + length {
                return Ok(bytes[end + 4..end + 4 + length].to_vec());
            }
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            bail!("it ended early");
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// Header and claims, of a JWT whose header has exactly what it has to have.
fn parts(token: &str) -> Result<(Value, Value)> {
    let parts: Vec<&str> = token.split('.').collect();
    ensure!(parts.len() == 3, "{} parts", parts.len());
    let header: Value = crate::token::json(parts[0])?;
    let fields = header.as_object().context("no header")?;
    ensure!(fields.len() == 3, "a header with other fields: {header}");
    ensure!(
        header["alg"] == "RS256" && header["typ"] == "JWT",
        "{header}"
    );
    let claims: Value = crate::token::json(parts[1])?;
    for name in ["iss", "sub", "aud", "jti"] {
        ensure!(claims[name].is_string(), "{name} is no string: {claims}");
    }
    ensure!(claims.get("azp").is_none(), "azp: {claims}");
    Ok((header, claims))
}
