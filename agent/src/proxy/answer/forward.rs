//! The real service's answer, to the request as the dialect rebuilt it.

use std::os::fd::AsFd;

use hyper::body::Bytes;
use imds_guard_core::imds::Rebuilt;
use imds_guard_core::policy::Mode;
use imds_guard_core::request::Request;

use super::Permitted;
use crate::proxy::failure::Failure;
use crate::proxy::gate::Gate;
use crate::proxy::reply::Reply;
use crate::proxy::socket::Socket;
use crate::upstream::{CREDENTIAL_BUDGET, Endpoint, READ_BUDGET, Way};

/// Forwards `rebuilt`, which is made of this call.
pub(super) async fn forward(
    of: &Permitted<'_>,
    rebuilt: Rebuilt,
    gate: &mut Gate<Socket>,
) -> Result<Reply, Failure> {
    let body = Bytes::copy_from_slice(gate.body().await.map_err(Failure::Body)?);
    let budget = match of.call.request {
        Request::Credential(_) => CREDENTIAL_BUDGET,
        Request::Read { .. } | Request::Write { .. } => READ_BUDGET,
    };
    let upstream = &of.on.proxy.upstream;
    let answer = upstream.send(of.permit, way(of)?, endpoint(of), &rebuilt, body, budget);
    Ok(Reply::Forwarded(answer.await?))
}

/// Where nothing is enforced a request passes as it would without us, granted or not. Only an enforced grant opens a way.
pub(super) fn way<'a>(of: &Permitted<'a>) -> Result<Way<'a>, Failure> {
    let on = of.on;
    Ok(match of.mode()? {
        Mode::Enforce => Way::Host,
        Mode::Audit | Mode::Observe => Way::Caller {
            own: &on.upstream,
            seam: &on.proxy.seam,
            caller: on.socket.as_fd(),
        },
    })
}

/// What the caller dialled.
pub(super) fn endpoint(of: &Permitted<'_>) -> Endpoint {
    let caller = &of.on.caller;
    Endpoint {
        address: caller.dialled(),
        id: caller.endpoint_id(),
    }
}
