//! From a name to a connection whose other end has proven that name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use imds_guard_core::exchange::Url;
use imds_guard_core::names::is_forbidden;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{OutboundError, Setup, race};

/// How long the next address is held back for one that doesn't answer (RFC 8305 has 250 ms, for clients with more time).
const PAUSE: Duration = Duration::from_millis(150);
/// Addresses of one name that are tried: more attempts don't fit into a budget.
const ADDRESSES: usize = 6;

pub(super) async fn dial(
    setup: &Setup,
    url: &Url,
    guarded: &[SocketAddr],
) -> Result<TlsStream<TcpStream>, OutboundError> {
    let host = url.host();
    let addresses = setup.resolver.resolve(host).await;
    let addresses = addresses.map_err(|error| OutboundError::Resolve(Arc::clone(host), error))?;
    // One of them is enough to show that the answer isn't an honest one.
    let forbidden = addresses.iter().find(|at| is_forbidden(**at, guarded));
    if let Some(at) = forbidden {
        setup.resolver.forget(host);
        return Err(OutboundError::Forbidden(Arc::clone(host), *at));
    }
    let attempts = addresses.iter().take(ADDRESSES);
    let attempts = attempts.map(|at| connect(*at, url.port()));
    let stream = match race::first(attempts, PAUSE).await {
        Some(Ok(stream)) => stream,
        lost => {
            // The name may lead elsewhere by now.
            setup.resolver.forget(host);
            let nobody = || io::ErrorKind::AddrNotAvailable.into();
            let error = lost.and_then(Result::err).unwrap_or_else(nobody);
            return Err(OutboundError::Connect(Arc::clone(host), error));
        }
    };
    let unproven = |error| OutboundError::Unproven(Arc::clone(host), error);
    let name = ServerName::try_from(host.to_string());
    let name = name.map_err(|error| unproven(io::Error::other(error)))?;
    setup.tls.0.connect(name, stream).await.map_err(unproven)
}

async fn connect(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
