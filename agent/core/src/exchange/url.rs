//! Where a token endpoint is: `https://HOST[:PORT]/PATH`, and nothing else that a URL can be.

use std::fmt;
use std::sync::Arc;

const PORT: u16 = 443;
/// The longest name that DNS knows.
const HOST_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;
/// No token endpoint's path and query are near this.
const TARGET_BYTES: usize = 2048;

/// The URL of a token endpoint. Its host is a name: a certificate proves names, and an address written in some way can't be
/// one of those that are guarded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    host: Arc<str>,
    port: u16,
    target: Arc<str>,
}

/// Why a text is no such URL: the sentence says what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUrl {
    /// Another scheme, or none.
    #[error("write https://: nothing is exchanged in the clear")]
    Scheme,
    /// Userinfo or a fragment, or characters that no URL has.
    #[error("write https://HOST/PATH, without user, fragment, spaces or quotes")]
    Characters,
    /// No name of a host.
    #[error("write the host's name: letters, digits, dashes and dots")]
    Host,
    /// An address in place of a name.
    #[error("write a name, not an address: the endpoint's certificate has to prove it")]
    Address,
    /// No port.
    #[error("write a port from 1 to 65535, or none")]
    Port,
    /// Longer than any that is.
    #[error("its path is longer than 2048 bytes")]
    Length,
}

impl Url {
    /// Reads `https://HOST[:PORT][/PATH][?QUERY]`.
    ///
    /// # Errors
    /// What isn't exactly that.
    pub fn parse(text: &str) -> Result<Self, NoUrl> {
        let rest = text.strip_prefix("https://").ok_or(NoUrl::Scheme)?;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>');
        if !rest.bytes().all(plain) {
            return Err(NoUrl::Characters);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(NoUrl::Characters);
        }
        let (host, port) = match authority.split_once(':') {
            None => (authority, PORT),
            Some(_) if authority.starts_with('[') => return Err(NoUrl::Address),
            Some((host, port)) => (host, number(port).ok_or(NoUrl::Port)?),
        };
        Ok(Self {
            host: name(host)?,
            port,
            target: path(target)?,
        })
    }

    /// The same endpoint's other target: path and query.
    ///
    /// # Errors
    /// It doesn't begin with a slash, or has what no URL has.
    pub fn at(&self, target: &str) -> Result<Self, NoUrl> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>');
        if !target.starts_with('/') || !target.bytes().all(plain) {
            return Err(NoUrl::Characters);
        }
        Ok(Self {
            target: path(target)?,
            ..self.clone()
        })
    }

    /// The host's name, in lower case, without a dot at its end.
    pub const fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// 443 where none is written.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, `/` at least.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the `Host` header says: the port only where it isn't 443.
    pub fn authority(&self) -> String {
        if self.port == PORT {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.target)
    }
}

fn number(port: &str) -> Option<u16> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|port| digits && *port != 0)
}

fn name(host: &str) -> Result<Arc<str>, NoUrl> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=LABEL_BYTES).contains(&label.len()) && edges && label.bytes().all(inner)
    };
    if host.starts_with('[') {
        return Err(NoUrl::Address);
    }
    if host.len() > HOST_BYTES || !host.split('.').all(label) {
        return Err(NoUrl::Host);
    }
    // As browsers do: what ends in a number (in hexadecimal, too) is an address in one of its many spellings.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return Err(NoUrl::Address);
    }
    Ok(host.into())
}

fn path(target: &str) -> Result<Arc<str>, NoUrl> {
    if target.len() > TARGET_BYTES {
        return Err(NoUrl::Length);
    }
    Ok(if target.starts_with('/') {
        target.into()
    } else {
        format!("/{target}").into()
    })
}
