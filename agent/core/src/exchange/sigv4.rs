//! Signature Version 4, by which AWS knows who sends a request. The keys never leave: what leaves is a signature that is good
//! for this request, for some minutes.
//!
//! Digests are the caller's ([`Digests`]): the program has one provider of cryptography, and this crate is without one.

use super::{AwsKeys, Url};
use crate::secret::Secret;
use std::fmt::Write as _;
use std::sync::Arc;

/// What signing is made of.
#[derive(Debug, Clone, Copy)]
pub struct Digests {
    /// SHA-256 of a message.
    pub sha256: fn(&[u8]) -> [u8; 32],
    /// HMAC-SHA-256, by a key (first), of a message.
    pub hmac_sha256: fn(&[u8], &[u8]) -> [u8; 32],
}

/// For which service and region, and when.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// `us-west-2`
    pub region: &'a str,
    /// `sts`
    pub service: &'a str,
    /// Unix seconds.
    pub now: i64,
}

/// The headers that make a request a signed one: those that say so in clear, and the session token.
#[derive(Debug)]
pub struct Signed {
    /// `x-amz-date` and `authorization`. The signature without the session token is of no use to anybody.
    pub headers: [(&'static str, String); 2],
    /// `x-amz-security-token`
    pub secret: (&'static str, Secret<Arc<str>>),
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: &str = "x-amz-date";
const TOKEN: &str = "x-amz-security-token";

/// Signs a POST of `body` to `url` with these headers beside `Host`. None for a time that no calendar has.
///
/// The path is taken as it is written, and there has to be no query: token endpoints have neither spaces nor queries.
pub fn sign(
    keys: &AwsKeys,
    scope: Scope<'_>,
    url: &Url,
    headers: &[(&'static str, String)],
    body: &[u8],
    digests: Digests,
) -> Option<Signed> {
    let time = jiff::Timestamp::from_second(scope.now).ok()?;
    let time = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = time.get(..8)?;
    let authority = url.authority();
    let mut all: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.trim())).collect();
    all.push(("host", &authority));
    all.push((DATE, &time));
    all.push((TOKEN, keys.session_token.expose()));
    all.sort_unstable();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let canonical = canonical(url, &all, &names, &hex(&(digests.sha256)(body)));
    let Scope {
        region, service, ..
    } = scope;
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!(
        "{ALGORITHM}\n{time}\n{scope}\n{}",
        hex(&(digests.sha256)(canonical.as_bytes()))
    );
    let secret = format!("AWS4{}", keys.secret_access_key.expose());
    let steps = [date, region, service, "aws4_request", &to_sign];
    let mut signature = secret.into_bytes();
    for step in steps {
        signature = (digests.hmac_sha256)(&signature, step.as_bytes()).to_vec();
    }
    let authorization = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        keys.access_key_id,
        hex(&signature)
    );
    Some(Signed {
        headers: [(DATE, time.clone()), ("authorization", authorization)],
        secret: (TOKEN, keys.session_token.clone()),
    })
}

fn canonical(url: &Url, headers: &[(&str, &str)], names: &str, digest: &str) -> String {
    let mut text = format!("POST\n{}\n\n", url.target());
    for (name, value) in headers {
        let _infallible = writeln!(text, "{name}:{value}");
    }
    let _infallible = write!(text, "\n{names}\n{digest}");
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
pub(in crate::exchange) mod tests;
