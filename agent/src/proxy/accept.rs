//! Accepting, for as long as the process serves. A listener is shared with the guard, which keeps it when we end.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// How long to wait when the system can't give us another socket: until then connections wait in the listener's queue.
const PAUSE: Duration = Duration::from_millis(50);

/// The next connection; none where the listener is no listener any more: the guard, or whoever rules its network namespace,
/// has shut it down.
pub(crate) async fn next(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return None,
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// accept(2) hands on what happened to the connection that it would have returned.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}
