//! The server's side of HTTP/1.1, as far as the gate leaves anything to do: one message after the other, each answered before
//! the next is looked at, and whether the connection goes on. What a request means is none of its business.
//!
//! Must never: look at a message while another is not answered, or go on where it could not say where the next one begins.

use hyper::body::Bytes;
use imds_guard_core::http::Head;
use imds_guard_core::imds::Service;

use super::gate::{Ended, Gate};
use super::linger;
use super::reply::{Replies, Reply};
use super::seats::Seat;
use super::socket::Socket;

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It goes on, as in HTTP/1.1 it does unless somebody says otherwise.
    GoesOn,
    /// It goes on, and a caller of HTTP/1.0 that asked for that is told so.
    GoesOnAsAsked,
    /// It ends: the caller asked for that, or has not sent a body that nobody here wants.
    Ends,
}

impl After {
    fn of(head: &Head, whole: bool) -> Self {
        match (head.keep_alive && whole, head.minor) {
            (false, _) => Self::Ends,
            (true, 0) => Self::GoesOnAsAsked,
            (true, _) => Self::GoesOn,
        }
    }

    /// The header that says it, where one is needed.
    pub(crate) const fn header(self) -> &'static str {
        match self {
            Self::GoesOn => "",
            Self::GoesOnAsAsked => "connection: keep-alive\r\n",
            Self::Ends => "connection: close\r\n",
        }
    }
}

/// Answers what comes through the gate with what `answer` makes of it, in the words of the service that it names, until
/// nothing more may come, and says why.
pub(crate) async fn serve(
    socket: &Socket,
    seat: &Seat,
    replies: &Replies,
    answer: impl AsyncFn(&mut Gate<Socket>) -> Result<(Service, Reply), Ended>,
) -> Ended {
    let mut gate = Gate::new(socket.clone());
    let mut head = Vec::new();
    loop {
        match one(&mut gate, seat, replies, &answer, &mut head).await {
            Ok(After::Ends) if gate.is_whole() => return Ended::Closed,
            Ok(After::Ends) => {
                linger::refuse(socket.clone(), &[]).await;
                return Ended::Closed;
            }
            Ok(After::GoesOn | After::GoesOnAsAsked) => {}
            Err(ended) => return ended,
        }
    }
}

/// One message and its answer. `head` is room for the answer's.
async fn one(
    gate: &mut Gate<Socket>,
    seat: &Seat,
    replies: &Replies,
    answer: &impl AsyncFn(&mut Gate<Socket>) -> Result<(Service, Reply), Ended>,
    head: &mut Vec<u8>,
) -> Result<After, Ended> {
    let asked = seat.wait_for(gate.head()).await.ok_or(Ended::Idle)??;
    let (service, reply) = answer(gate).await?;
    let after = After::of(&asked, gate.is_whole());
    head.clear();
    let mut body = replies.write(service, reply, after, head);
    if gate.head_bytes().starts_with(b"HEAD ") {
        body = Bytes::new();
    }
    gate.write(head, &body).await.map_err(|_| Ended::Broken)?;
    Ok(after)
}
