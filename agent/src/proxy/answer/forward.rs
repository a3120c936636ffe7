//! The real service's answer, to the request as the dialect rebuilt it.

use std::os::fd::AsFd;

use hyper::body::Bytes;
use imds_guard_core::policy::{Identity, Mode};
use imds_guard_core::request::Request;

use super::Permitted;
use crate::proxy::failure::Failure;
use crate::proxy::gate::Gate;
use crate::proxy::reply::Reply;
use crate::proxy::socket::Socket;
use crate::upstream::{CREDENTIAL_BUDGET, Endpoint, READ_BUDGET, Way};

/// Forwards it, as `identity` where the grant pins one.
pub(super) async fn forward(
    of: &Permitted<'_>,
    identity: Option<&Identity>,
    gate: &mut Gate<Socket>,
) -> Result<Reply, Failure> {
    let Permitted { on, call, .. } = of;
    // Where nothing is enforced a request passes as it would without us, granted or not. Only an enforced grant opens a way.
    let way = match on.door(of.policy).ok_or(Failure::NotServed)?.mode {
        Mode::Enforce => Way::Host,
        Mode::Audit | Mode::Observe => Way::Caller {
            own: &on.upstream,
            seam: &on.proxy.seam,
            caller: on.socket.as_fd(),
        },
    };
    let rebuilt = call.rebuild(identity);
    let body = Bytes::copy_from_slice(gate.body().await.map_err(Failure::Body)?);
    let endpoint = Endpoint {
        address: on.caller.dialled(),
        id: on.caller.endpoint_id(),
    };
    let budget = match call.request {
        Request::Credential(_) => CREDENTIAL_BUDGET,
        Request::Read { .. } | Request::Write { .. } => READ_BUDGET,
    };
    let answer = on
        .proxy
        .upstream
        .send(of.permit, way, endpoint, &rebuilt, body, budget)
        .await?;
    Ok(Reply::Forwarded(answer))
}
