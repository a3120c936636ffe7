//! Several ways to one end, begun one after another: the next when an earlier one has failed or taken too long. The first that
//! arrives wins, and the others are dropped.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

/// The first success; else the last failure; none where there was no attempt.
pub(super) async fn first<T, E, F>(
    attempts: impl IntoIterator<Item = F>,
    pause: Duration,
) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut attempts = attempts.into_iter();
    let (mut running, mut failed, mut more) = (vec![], None, true);
    loop {
        match attempts.next() {
            Some(attempt) => running.push(Box::pin(attempt)),
            None => more = false,
        }
        if running.is_empty() {
            return failed;
        }
        tokio::select! {
            ended = any(&mut running) => match ended {
                Ok(won) => return Some(Ok(won)),
                Err(error) => failed = Some(Err(error)),
            },
            () = sleep(pause), if more => {}
        }
    }
}

async fn any<F: Future>(running: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        for at in 0..running.len() {
            if let Poll::Ready(output) = running[at].as_mut().poll(context) {
                drop(running.swap_remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const PAUSE: Duration = Duration::from_millis(100);

    /// Ends after so many milliseconds.
    async fn ends(after: u64, with: Result<u64, u64>) -> Result<u64, u64> {
        sleep(Duration::from_millis(after)).await;
        with
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_succeed_wins_whoever_began() {
        let began = Instant::now();
        let won = first([ends(900, Ok(1)), ends(50, Ok(2)), ends(0, Ok(3))], PAUSE).await;
        assert_eq!(won, Some(Ok(2)));
        assert_eq!(began.elapsed(), Duration::from_millis(150));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_begins_the_next_at_once_and_the_last_one_is_told() {
        let began = Instant::now();
        let won = first([ends(10, Err(1)), ends(10, Ok(2))], PAUSE).await;
        assert_eq!(
            (won, began.elapsed()),
            (Some(Ok(2)), Duration::from_millis(20))
        );
        let lost = first([ends(250, Err(1)), ends(10, Err(2))], PAUSE).await;
        assert_eq!(lost, Some(Err(1)));
        assert_eq!(
            first(
                std::iter::empty::<std::future::Ready<Result<u64, u64>>>(),
                PAUSE
            )
            .await,
            None
        );
    }
}
