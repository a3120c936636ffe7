//! Flights that are everybody's, under tokio's paused clock; Unix time is an argument.

use std::cell::Cell;

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::*;

#[derive(Debug, PartialEq)]
struct Keys {
    number: u32,
    issued: i64,
    expires: i64,
}

const LEAST: i64 = 25 * 60;

impl Credential for Keys {
    fn issued(&self) -> i64 {
        self.issued
    }
    fn expires(&self) -> i64 {
        self.expires
    }
    fn least(&self) -> i64 {
        LEAST
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Fails {
    Refused,
    Throttled,
}

const RETRY_AFTER: Duration = Duration::from_secs(20);

impl Failure for Fails {
    fn is_general(&self) -> bool {
        *self == Self::Throttled
    }
    fn lasts(&self) -> Duration {
        RETRY_AFTER
    }
}

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;
const PATIENCE: Duration = Duration::from_millis(650);

/// A source that counts, and takes its time.
struct Source {
    asked: Cell<u32>,
    takes: Cell<Duration>,
    lifetime: Cell<i64>,
    fails: Cell<Option<Fails>>,
}

struct World {
    broker: Rc<Broker<Keys, Fails>>,
    source: Rc<Source>,
}

impl World {
    fn new() -> Self {
        Self {
            broker: Rc::new(Broker::new()),
            source: Rc::new(Source {
                asked: Cell::new(0),
                takes: Cell::new(Duration::from_millis(200)),
                lifetime: Cell::new(HOUR),
                fails: Cell::new(None),
            }),
        }
    }

    async fn obtain(&self, now: i64) -> Result<(u32, Via), Missed<Fails>> {
        let key = Key {
            workload: "batch".into(),
            identity: "batch".into(),
            subject: "batch@web-07".into(),
            audience: "arn:aws:iam::111122223333:role/batch".into(),
            epoch: 1,
        };
        let source = Rc::clone(&self.source);
        let got = self.broker.obtain(key, now, PATIENCE, || async move {
            source.asked.set(source.asked.get() + 1);
            sleep(source.takes.get()).await;
            let fails = source.fails.take();
            source.fails.set(fails.clone());
            match fails {
                Some(failure) => Err(failure),
                None => Ok(Keys {
                    number: source.asked.get(),
                    issued: now,
                    expires: now + source.lifetime.get(),
                }),
            }
        });
        got.await.map(|(keys, via)| (keys.number, via))
    }
}

async fn settle() {
    sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_at_once_are_one_flight_and_share_its_refusal() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = Rc::new(World::new());
            world.source.fails.set(Some(Fails::Refused));
            for (flight, wanted) in [
                (1, Err(Missed::Failed(Fails::Refused))),
                (2, Ok((2, Via::Source))),
            ] {
                let began = Instant::now();
                let ask = || {
                    let world = Rc::clone(&world);
                    spawn_local(async move { world.obtain(NOW).await })
                };
                let all: Vec<_> = (0..100).map(|_| ask()).collect();
                for one in all {
                    assert_eq!(one.await.unwrap(), wanted);
                }
                assert_eq!(world.source.asked.get(), flight);
                assert!(began.elapsed() < PATIENCE);
                world.source.fails.set(None);
            }
            assert_eq!(world.obtain(NOW).await, Ok((2, Via::Cache)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_finds_it_at_the_next_attempt() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            world.source.takes.set(Duration::from_millis(1500));
            let began = Instant::now();
            assert_eq!(world.obtain(NOW).await, Err(Missed::Late));
            assert_eq!(began.elapsed(), PATIENCE);
            settle().await;
            assert_eq!(world.obtain(NOW).await, Ok((1, Via::Cache)));
            assert_eq!(world.source.asked.get(), 1);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_behind_the_callers_backs_and_given_while_long_enough() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            world.obtain(NOW).await.unwrap();
            // 35 minutes left.
            assert_eq!(world.obtain(NOW + 25 * 60).await, Ok((1, Via::Cache)));
            settle().await;
            assert_eq!(world.source.asked.get(), 1);
            // 26 minutes left: at once, all the same.
            let began = Instant::now();
            assert_eq!(world.obtain(NOW + 34 * 60).await, Ok((1, Via::Cache)));
            assert_eq!(began.elapsed(), Duration::ZERO);
            settle().await;
            assert_eq!(world.obtain(NOW + 34 * 60).await, Ok((2, Via::Cache)));
            assert_eq!(world.source.asked.get(), 2);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn less_than_is_due_is_given_only_where_there_is_no_newer_one() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            world.obtain(NOW).await.unwrap();
            let late = NOW + 40 * 60;
            world.source.fails.set(Some(Fails::Throttled));
            assert_eq!(world.obtain(late).await, Ok((1, Via::Instead)));
            // Told to come back later, nobody asks before.
            assert_eq!(world.obtain(late).await, Ok((1, Via::Instead)));
            assert_eq!(world.source.asked.get(), 2);
            world.source.fails.set(None);
            sleep(RETRY_AFTER).await;
            assert_eq!(world.obtain(late).await, Ok((3, Via::Source)));
            // Ended, it is given to nobody.
            world.source.fails.set(Some(Fails::Throttled));
            let ended = world.obtain(late + HOUR).await;
            assert_eq!(ended, Err(Missed::Failed(Fails::Throttled)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_what_is_kept_also_behind_the_callers_backs() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            world.obtain(NOW).await.unwrap();
            world.source.fails.set(Some(Fails::Refused));
            let ahead = NOW + 34 * 60;
            assert_eq!(world.obtain(ahead).await, Ok((1, Via::Cache)));
            settle().await;
            let refused = Err(Missed::Failed(Fails::Refused));
            assert_eq!(world.obtain(ahead).await, refused);
            assert_eq!(world.source.asked.get(), 3);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_lives_shortly_is_renewed_at_half_its_life_and_not_at_each_request() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            world.source.lifetime.set(900);
            world.obtain(NOW).await.unwrap();
            for after in [0, 100, 300] {
                assert_eq!(world.obtain(NOW + after).await, Ok((1, Via::Cache)));
                settle().await;
            }
            assert_eq!(world.source.asked.get(), 1);
            assert_eq!(world.obtain(NOW + 500).await, Ok((2, Via::Source)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_never_lands_leaves_the_way_to_the_next() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let world = World::new();
            let slot = Rc::<Slot<Keys, Fails>>::default();
            let flying = world.broker.fly(&slot, || async { panic!("a defect") });
            assert_eq!(landed(flying, PATIENCE).await, Err(Missed::Late));
            assert!(slot.flying.borrow().is_none());
        })
        .await;
}
