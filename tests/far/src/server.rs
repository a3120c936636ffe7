//! The server: TLS as the real ones speak it, one thread for each connection, everything that was asked kept.

use crate::{Authority, Credentials, End, Reply, Request};
use anyhow::{Context, Result, ensure};
use rustls::{
    HandshakeKind, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running far end; it ends with the process.
#[derive(Clone)]
pub struct FarEnd {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    tls: Arc<ServerConfig>,
    answer: Box<Answer>,
    received: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    resumed: AtomicUsize,
}

impl std::fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FarEnd({})", self.address)
    }
}

impl FarEnd {
    /// Serves `names` on a free port of loopback, vouched for by `authority`.
    ///
    /// # Errors
    /// When it can't listen, or a name is none.
    pub fn on_loopback(
        authority: &Authority,
        names: &[&str],
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Self::start(listener, authority.vouch(names)?, answer)
    }

    /// Serves on `listener` with TLS 1.3 and 1.2.
    ///
    /// # Errors
    /// When the credentials don't fit together.
    pub fn start(
        listener: TcpListener,
        credentials: Credentials,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_with(listener, credentials, rustls::ALL_VERSIONS, answer)
    }

    /// The same with these versions of TLS.
    ///
    /// # Errors
    /// When the credentials don't fit together.
    pub fn start_with(
        listener: TcpListener,
        credentials: Credentials,
        versions: &[&'static SupportedProtocolVersion],
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut tls = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(credentials.chain, credentials.key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let far = Self {
            address: listener.local_addr()?,
            state: Arc::new(State {
                tls: Arc::new(tls),
                answer: Box::new(answer),
                received: Mutex::default(),
                connections: AtomicUsize::new(0),
                resumed: AtomicUsize::new(0),
            }),
        };
        let accepting = far.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&accepting.state);
                // What a client does wrong ends its connection, as at the real ones.
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Ok(far)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        let received = &self.state.received;
        received
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Connections whose handshake was completed.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many of them went on with an earlier one's session.
    #[must_use]
    pub fn resumed(&self) -> usize {
        self.state.resumed.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut tls = ServerConnection::new(Arc::clone(&self.tls))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        let connection = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.resumed.fetch_add(1, Ordering::SeqCst);
        }
        let name = tls
            .server_name()
            .context("no name was asked for")?
            .to_owned();
        let mut stream = BufReader::new(StreamOwned::new(tls, stream));
        while let Some(request) = Request::read(&mut stream, &name, connection)? {
            let host = request.header("host").unwrap_or_default();
            let asked = host.split(':').next().unwrap_or_default();
            ensure!(asked == name, "asked for {host:?} at {name:?}");
            let received = &self.received;
            received
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(request.clone());
            let reply = (self.answer)(&request);
            std::thread::sleep(reply.after);
            let to = stream.get_mut();
            to.write_all(&reply.bytes())?;
            to.flush()?;
            match reply.end {
                End::Kept => {}
                End::Closed | End::HungUp => {
                    to.conn.send_close_notify();
                    to.conn.complete_io(&mut to.sock)?;
                    break;
                }
                End::Cut | End::Dropped => break,
            }
        }
        Ok(())
    }
}
