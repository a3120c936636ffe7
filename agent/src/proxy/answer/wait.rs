//! Answers that come when something changes. The caller has its place for as long; it is judged anew when the policy changes,
//! and let go when it hangs up.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use imds_guard_core::imds::gcp::Wait;
use tokio::time::sleep;

use super::Permitted;
use crate::proxy::exchange::still_permitted;
use crate::proxy::failure::Failure;
use crate::proxy::gate::Ended;

/// What `answer` gives, if the caller may still have it then.
///
/// # Errors
/// `answer`'s; the new policy's; the caller has hung up.
pub(super) async fn judged_meanwhile<T>(
    of: &Permitted<'_>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        answer = answer => answer,
        Err(failure) = judged(of) => Err(failure),
        () = of.on.socket.hung_up() => Err(Failure::Body(Ended::Closed)),
    }
}

/// Ends with the first policy that doesn't grant the same.
async fn judged(of: &Permitted<'_>) -> Result<(), Failure> {
    let mut changed = of.on.proxy.changed.subscribe();
    // One may have come since this request was judged.
    changed.mark_changed();
    while changed.changed().await.is_ok() {
        let session = of.on.session().await?;
        still_permitted(of.on, &session, of.policy, of.call, of.permit).await?;
    }
    pending().await
}

/// Holds back an answer that is known by `etag` while nothing changes, and says whether it did. Of what is configured, nothing
/// changes but by a new policy, and by that it is another answer.
pub(super) async fn held(
    of: &Permitted<'_>,
    wait: Option<&Wait>,
    etag: &str,
) -> Result<bool, Failure> {
    let Some(wait) = wait else { return Ok(false) };
    if wait
        .last_etag
        .as_ref()
        .is_some_and(|known| **known != *etag)
    {
        return Ok(false);
    }
    let end = pin!(sleep(Duration::from_secs(wait.timeout.into())));
    judged_meanwhile(of, async {
        end.await;
        Ok(true)
    })
    .await
}
