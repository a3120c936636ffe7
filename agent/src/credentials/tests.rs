//! The broker under tokio's paused clock; Unix time is an argument.

use super::*;
use std::cell::Cell;

#[derive(Debug, PartialEq)]
struct Token {
    number: u32,
    issued: i64,
    expires: i64,
}

impl Credential for Token {
    fn issued(&self) -> i64 {
        self.issued
    }
    fn expires(&self) -> i64 {
        self.expires
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Fails {
    Refused,
    Down,
}

impl Failure for Fails {
    fn is_general(&self) -> bool {
        *self == Self::Down
    }
}

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

/// A source that takes 100 ms and counts.
#[derive(Default)]
struct Source {
    fetched: Cell<u32>,
    fails: Cell<Option<Fails>>,
}

impl Source {
    async fn fetch(&self, now: i64) -> Result<Token, Fails> {
        self.fetched.set(self.fetched.get() + 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        match self.fails.take() {
            Some(failure) => {
                self.fails.set(Some(failure.clone()));
                Err(failure)
            }
            None => Ok(Token {
                number: self.fetched.get(),
                issued: now,
                expires: now + HOUR,
            }),
        }
    }
}

fn key(workload: &str, epoch: u64) -> Key {
    Key {
        workload: workload.into(),
        identity: "billing".into(),
        subject: "spiffe://example.org/host/web-07/workload/billing".into(),
        audience: "https://vault.azure.net".into(),
        epoch,
    }
}

type Brokered = Broker<Token, Fails>;

async fn get(
    broker: &Brokered,
    source: &Source,
    key: Key,
    fresh: bool,
    now: i64,
) -> Result<u32, Fails> {
    broker
        .get(key, fresh, now, async || source.fetch(now).await)
        .await
        .map(|(token, _)| token.number)
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_and_given_after_a_renewal_failed_took_time() {
    let (broker, source) = (Brokered::new(), Source::default());
    let get = async |now| {
        let got = broker.get(key("a", 1), false, now, async || source.fetch(now).await);
        got.await.map(|(_, via)| via)
    };
    assert_eq!(get(NOW).await, Ok(Via::Source));
    let late = NOW + HOUR * 85 / 100;
    source.fails.set(Some(Fails::Down));
    let via = get(late).await.unwrap();
    assert_eq!(via, Via::Instead);
    assert!(via.took_time() && via.is_cached());
    let via = get(NOW).await.unwrap();
    assert!(!via.took_time() && via.is_cached(), "{via:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_at_once_cost_one_fetch_and_the_next_none() {
    let (broker, source) = (Brokered::new(), Source::default());
    let local = tokio::task::LocalSet::new();
    let (broker, source) = (Rc::new(broker), Rc::new(source));
    local
        .run_until(async {
            let all: Vec<_> = (0..100)
                .map(|_| {
                    let (broker, source) = (Rc::clone(&broker), Rc::clone(&source));
                    tokio::task::spawn_local(async move {
                        get(&broker, &source, key("a", 1), false, NOW).await
                    })
                })
                .collect();
            for one in all {
                assert_eq!(one.await.unwrap(), Ok(1));
            }
        })
        .await;
    assert_eq!(get(&broker, &source, key("a", 1), false, NOW).await, Ok(1));
    assert_eq!(source.fetched.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_workloads_epochs_and_callers_that_insist_get_their_own() {
    let (broker, source) = (Brokered::new(), Source::default());
    assert_eq!(get(&broker, &source, key("a", 1), false, NOW).await, Ok(1));
    assert_eq!(get(&broker, &source, key("b", 1), false, NOW).await, Ok(2));
    assert_eq!(get(&broker, &source, key("a", 2), false, NOW).await, Ok(3));
    assert_eq!(get(&broker, &source, key("a", 1), true, NOW).await, Ok(4));
    assert_eq!(get(&broker, &source, key("a", 1), false, NOW).await, Ok(4));
    broker.clear();
    assert_eq!(get(&broker, &source, key("a", 1), false, NOW).await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn insisting_at_the_same_time_is_one_fetch_later_than_the_ask() {
    let (broker, source) = (Brokered::new(), Source::default());
    let (one, other) = tokio::join!(
        get(&broker, &source, key("a", 1), true, NOW),
        get(&broker, &source, key("a", 1), true, NOW),
    );
    assert_eq!((one, other), (Ok(1), Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_ahead_of_its_end_and_served_stale_only_while_valid() {
    let (broker, source) = (Brokered::new(), Source::default());
    get(&broker, &source, key("a", 1), false, NOW)
        .await
        .unwrap();
    let early = NOW + HOUR * 65 / 100;
    assert_eq!(
        get(&broker, &source, key("a", 1), false, early).await,
        Ok(1)
    );
    let late = NOW + HOUR * 85 / 100;
    source.fails.set(Some(Fails::Down));
    assert_eq!(get(&broker, &source, key("a", 1), false, late).await, Ok(1));
    assert_eq!(source.fetched.get(), 2, "one tried");
    assert_eq!(
        get(&broker, &source, key("a", 1), false, NOW + HOUR).await,
        Err(Fails::Down),
        "an expired one is not served, whatever the source does"
    );
    source.fails.set(None);
    tokio::time::sleep(FAILURE_KEPT).await;
    assert!(
        get(&broker, &source, key("a", 1), false, NOW + HOUR)
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_while_it_renews_is_not_served_what_is_kept() {
    let (broker, source) = (Brokered::new(), Source::default());
    get(&broker, &source, key("a", 1), false, NOW)
        .await
        .unwrap();
    let late = NOW + HOUR * 85 / 100;
    source.fails.set(Some(Fails::Refused));
    assert_eq!(
        get(&broker, &source, key("a", 1), false, late).await,
        Err(Fails::Refused)
    );
    source.fails.set(None);
    assert_eq!(
        get(&broker, &source, key("a", 1), false, late).await,
        Ok(3),
        "the next one renews"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_never_kept_and_another_failure_briefly() {
    let (broker, source) = (Brokered::new(), Source::default());
    source.fails.set(Some(Fails::Refused));
    for fetched in 1..=3 {
        assert_eq!(
            get(&broker, &source, key("a", 1), false, NOW).await,
            Err(Fails::Refused)
        );
        assert_eq!(source.fetched.get(), fetched);
    }
    source.fails.set(Some(Fails::Down));
    for _ in 0..3 {
        assert_eq!(
            get(&broker, &source, key("a", 1), false, NOW).await,
            Err(Fails::Down)
        );
        assert_eq!(source.fetched.get(), 4);
    }
    tokio::time::sleep(FAILURE_KEPT).await;
    source.fails.set(None);
    assert_eq!(get(&broker, &source, key("a", 1), false, NOW).await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_in_mid_flight_leaves_the_flight_to_the_next() {
    let (broker, source) = (Brokered::new(), Source::default());
    let leaving = tokio::time::timeout(
        Duration::from_millis(50),
        get(&broker, &source, key("a", 1), false, NOW),
    );
    let (left, stayed) = tokio::join!(leaving, get(&broker, &source, key("a", 1), false, NOW));
    assert!(left.is_err());
    assert_eq!(stayed, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded() {
    let (broker, source) = (Brokered::new(), Source::default());
    for n in 0..KEPT + 10 {
        get(&broker, &source, key(&n.to_string(), 1), false, NOW)
            .await
            .unwrap();
    }
    assert_eq!(broker.slots.borrow().len(), KEPT);
    get(&broker, &source, key("late", 1), false, NOW + 2 * HOUR)
        .await
        .unwrap();
    assert_eq!(broker.slots.borrow().len(), 1, "what has ended makes room");
}
