//! The agent's own sessions with the real service (IMDSv2): one per endpoint, fetched when first needed, renewed ahead of its
//! end, shared by all requests that go the host's way. So a machine can demand sessions, with a hop limit of 1, while a caller
//! whose rule allows it asks without.
//!
//! Must never: give a session of the host's to a request that goes in a caller's place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use imds_guard_core::decision::Permit;
use imds_guard_core::imds::Rebuilt;
use imds_guard_core::imds::aws::session::{TTL_MAX, request};
use imds_guard_core::secret::Secret;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Answer, Endpoint, Upstream, UpstreamError, Way};

/// How long a token may take: SDKs wait a second for all that they ask, and something is asked with it.
const BUDGET: Duration = Duration::from_millis(400);
/// Renewed when this is left of it. A renewal that fails is tried again by the next request.
const AHEAD: Duration = Duration::from_mins(10);
/// No token of the real service is near this long.
const LIMIT: usize = 1024;

type Token = Secret<Arc<str>>;

/// Of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Sessions(RefCell<HashMap<Endpoint, Rc<Slot>>>);

#[derive(Debug, Default)]
struct Slot {
    /// Held by the one that fetches.
    flight: Mutex<()>,
    kept: RefCell<Option<(Token, Instant)>>,
}

impl Slot {
    /// What is kept, if it will do for `left` more.
    fn good_for(&self, left: Duration) -> Option<Token> {
        let kept = self.kept.borrow();
        let (token, end) = kept.as_ref()?;
        (*end > Instant::now() + left).then(|| token.clone())
    }
}

impl Upstream {
    /// Our session with `endpoint`.
    pub(crate) async fn session(
        &self,
        permit: &Permit,
        endpoint: Endpoint,
    ) -> Result<Token, UpstreamError> {
        let slot = Rc::clone(self.sessions.0.borrow_mut().entry(endpoint).or_default());
        if let Some(token) = slot.good_for(AHEAD) {
            return Ok(token);
        }
        if let Some(token) = slot.good_for(Duration::from_secs(1)) {
            // One renews, the others go on with what there is; and so does that one where it can't.
            let Ok(_flight) = slot.flight.try_lock() else {
                return Ok(token);
            };
            let renewed = self.fetch(permit, Way::Host, endpoint).await;
            return Ok(renewed.map_or(token, |new| slot.keep(new)));
        }
        let _flight = slot.flight.lock().await;
        if let Some(token) = slot.good_for(Duration::from_secs(1)) {
            return Ok(token);
        }
        let new = self.fetch(permit, Way::Host, endpoint).await?;
        Ok(slot.keep(new))
    }

    /// The service doesn't know our session any more.
    pub(crate) fn forget_session(&self, endpoint: Endpoint) {
        self.sessions.0.borrow_mut().remove(&endpoint);
    }

    /// A session that the caller would get in its own place, kept as long as its connection. None where the service, a hop
    /// limit or a firewall gives it none: then it would ask without, and so do we in its place.
    pub(crate) async fn session_in_place(
        &self,
        permit: &Permit,
        way: Way<'_>,
        endpoint: Endpoint,
    ) -> Option<Token> {
        let Way::Caller { own, .. } = way else {
            return None;
        };
        if let Some(token) = &*own.session.borrow() {
            return Some(token.clone());
        }
        let token = self.fetch(permit, way, endpoint).await.ok();
        own.session.borrow_mut().clone_from(&token);
        token
    }

    async fn fetch(
        &self,
        permit: &Permit,
        way: Way<'_>,
        endpoint: Endpoint,
    ) -> Result<Token, UpstreamError> {
        let put: Rebuilt = request(TTL_MAX);
        let answer = self.send(permit, way, endpoint, &put, Bytes::new(), BUDGET);
        match answer.await {
            Ok(answer) if answer.status == 200 => token(&answer).ok_or(UpstreamError::SessionToken),
            Ok(answer) => Err(UpstreamError::NoSession(answer.status)),
            Err(UpstreamError::Late) => Err(UpstreamError::SessionLate),
            Err(error) => Err(error),
        }
    }
}

impl Slot {
    fn keep(&self, token: Token) -> Token {
        let end = Instant::now() + Duration::from_secs(TTL_MAX.into());
        *self.kept.borrow_mut() = Some((token.clone(), end));
        token
    }
}

fn token(answer: &Answer) -> Option<Token> {
    let body = answer.body.expose();
    let plain = !body.is_empty() && body.len() <= LIMIT && body.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(body).ok().filter(|_| plain)?;
    Some(Secret::new(text.into()))
}
