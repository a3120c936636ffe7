//! How a connection ends with a refusal: the answer is written, our side is closed, and what the caller still sends is read
//! away for a bounded time. Without that last step, closing a socket with unread bytes resets it, and the reset can
//! destroy the refusal before the caller has read it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long the whole farewell may take.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);
/// How much is read away.
pub(crate) const DRAIN_BYTES: usize = 256 * 1024;

/// Writes `answer` and closes. Errors only end it sooner: there is nobody left to tell.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, answer: &[u8]) {
    let farewell = async {
        socket.write_all(answer).await?;
        socket.shutdown().await?;
        let mut away = [0; 4096];
        let mut drained = 0;
        while drained < DRAIN_BYTES {
            match socket.read(&mut away).await? {
                0 => break,
                n => drained += n,
            }
        }
        io::Result::Ok(())
    };
    match timeout(FAREWELL, farewell).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "caller left before its refusal"),
        Err(_) => tracing::debug!("caller did not close after its refusal"),
    }
}
