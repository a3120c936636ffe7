//! The node's own identity, from the real service: what a narrower one is asked for with. It is kept apart from all that callers
//! are given, in a type that nothing turns into an answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use imds_guard_core::decision::Permit;
use imds_guard_core::exchange::{AwsKeys, google, sts};
use imds_guard_core::imds::Rebuilt;
use imds_guard_core::imds::aws::{TOKEN_HEADER, role};
use imds_guard_core::imds::gcp::FLAVOR;
use imds_guard_core::imds::gcp::answer::AccessToken;

use super::kept::Unforwarded;
use crate::credentials::{Credential, Key};
use crate::proxy::Proxy;
use crate::proxy::clock::unix_now;
use crate::upstream::{Answer, CREDENTIAL_BUDGET, Endpoint, UpstreamError, Way};

/// The node's own credential.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) own: Own,
    received: i64,
}

#[derive(Debug)]
pub(super) enum Own {
    /// Keys of the instance's role, and the region that it is in, where the service says so.
    Aws {
        keys: AwsKeys,
        region: Option<Arc<str>>,
    },
    /// An access token of the machine's account.
    Gcp(AccessToken),
}

impl Credential for Node {
    fn issued(&self) -> i64 {
        self.received
    }
    fn expires(&self) -> i64 {
        match &self.own {
            Own::Aws { keys, .. } => keys.expires,
            Own::Gcp(token) => token.expires,
        }
    }
    /// Nobody is to be told that what signs has just ended.
    fn least(&self) -> i64 {
        60
    }
}

/// Whose: what the real service at one address gives, to nobody but us.
pub(super) fn key(at: Endpoint) -> Key {
    Key {
        workload: "".into(),
        identity: "".into(),
        subject: "".into(),
        audience: at.address.to_string().into(),
        epoch: 0,
    }
}

/// How long a flight for a caller waits for that of the node.
const PATIENCE: Duration = Duration::from_secs(5);

/// The instance's keys: those that are kept, or newer ones.
pub(super) async fn aws(
    proxy: &Rc<Proxy>,
    permit: &Permit,
    at: Endpoint,
) -> Result<Rc<Node>, Unforwarded> {
    let (own, permit) = (Rc::clone(proxy), permit.clone());
    let fetch = || async move { aws_anew(&own, &permit, at).await };
    let got = proxy.node.obtain(key(at), unix_now(), PATIENCE, fetch);
    Ok(got.await?.0)
}

/// A token of the machine's account: the one that is kept, or a newer one.
pub(super) async fn gcp(
    proxy: &Rc<Proxy>,
    permit: &Permit,
    at: Endpoint,
) -> Result<Rc<Node>, Unforwarded> {
    let (own, permit) = (Rc::clone(proxy), permit.clone());
    let fetch = || async move { gcp_anew(&own, &permit, at).await };
    let got = proxy.node.obtain(key(at), unix_now(), PATIENCE, fetch);
    Ok(got.await?.0)
}

async fn aws_anew(proxy: &Proxy, permit: &Permit, at: Endpoint) -> Result<Node, Unforwarded> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let get = async |target: String| good(imds(proxy, permit, at, get(target)).await?);
    let list = get(ROLES.to_owned()).await?;
    let none = || Unforwarded::from(UpstreamError::NoCredential);
    let name = role::listed(list.body.expose()).ok_or_else(none)?;
    let keys = get(format!("{ROLES}{name}")).await?;
    let keys = role::read(keys.body.expose()).ok_or_else(none)?;
    // Older services don't say, and a policy may.
    let region = get("/latest/meta-data/placement/region".to_owned()).await;
    let region = region.ok().and_then(|answer| {
        let text = std::str::from_utf8(answer.body.expose()).ok()?.trim();
        sts::is_region(text).then(|| text.into())
    });
    Ok(Node {
        own: Own::Aws { keys, region },
        received: unix_now(),
    })
}

async fn gcp_anew(proxy: &Proxy, permit: &Permit, at: Endpoint) -> Result<Node, Unforwarded> {
    let scope = google::NODE_SCOPE;
    let rebuilt = Rebuilt {
        headers: vec![(FLAVOR.0.to_owned(), FLAVOR.1.to_owned())],
        ..get(format!(
            "/computeMetadata/v1/instance/service-accounts/default/token?scopes={scope}"
        ))
    };
    let answer = good(as_host(proxy, permit, at, &rebuilt).await?)?;
    let token = AccessToken::read(answer.body.expose(), unix_now());
    let token = token.ok_or(UpstreamError::NoCredential)?;
    Ok(Node {
        own: Own::Gcp(token),
        received: unix_now(),
    })
}

const fn get(target: String) -> Rebuilt {
    Rebuilt {
        method: "GET",
        target,
        headers: vec![],
        secret: None,
    }
}

fn good(answer: Answer) -> Result<Answer, Unforwarded> {
    if answer.status == StatusCode::OK {
        Ok(answer)
    } else {
        Err(Unforwarded::Refused(Rc::new(answer)))
    }
}

/// What the real service answers the host.
pub(super) async fn as_host(
    proxy: &Proxy,
    permit: &Permit,
    at: Endpoint,
    rebuilt: &Rebuilt,
) -> Result<Answer, UpstreamError> {
    let upstream = &proxy.upstream;
    let empty = Bytes::new();
    upstream
        .send(permit, Way::Host, at, rebuilt, empty, CREDENTIAL_BUDGET)
        .await
}

/// The same of Amazon's, under a session of ours.
pub(super) async fn imds(
    proxy: &Proxy,
    permit: &Permit,
    at: Endpoint,
    mut rebuilt: Rebuilt,
) -> Result<Answer, UpstreamError> {
    let session = proxy.upstream.session(permit, at).await?;
    rebuilt.secret = Some((TOKEN_HEADER, session));
    let answer = as_host(proxy, permit, at, &rebuilt).await?;
    if answer.status != StatusCode::UNAUTHORIZED {
        return Ok(answer);
    }
    // Ours is not known there any more: the machine was restored, or the service started anew.
    proxy.upstream.forget_session(at);
    let session = proxy.upstream.session(permit, at).await?;
    rebuilt.secret = Some((TOKEN_HEADER, session));
    as_host(proxy, permit, at, &rebuilt).await
}
