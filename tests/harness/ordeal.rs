//! What every real client goes through, whatever its cloud and its language: allowed; denied, and what its user sees; credentials that
//! end; an agent that is restarted in between; a real service that fails, throttles or is slow. [`ordeals!`](crate::ordeals!) makes the tests, one
//! line for each client.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what fails here fails the test that stands on it"
)]

use crate::cloud::Guarded;
use crate::{Program, Staying, Trouble, World, patience};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A client, and how it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// How it is started.
    pub program: Program<'static>,
    /// Whether it stays and renews what it has, or is started for each credential.
    pub stays: bool,
    /// What its user sees where policy refuses.
    pub denied: Seen,
    /// What becomes of one failure (500) of the real service's.
    pub failing: Seen,
    /// Of being throttled once (429, `Retry-After: 1`).
    pub throttled: Seen,
    /// Of one answer that comes later than we wait for it.
    pub slow: Seen,
}

/// What comes of it, for whoever runs the program.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// A credential: the client tried again.
    Served,
    /// These words, among others.
    Words(&'static str),
}

/// What every refusal of ours says to whoever is shown it.
pub const OURS: Seen = Seen::Words("Refused by imds-guard");

impl Client {
    fn ask<'w, S: Guarded<'w>>(&self, world: &World, at: &S) -> Value {
        self.program.ask(world, &at.granted(), &[]).unwrap()
    }
}

#[track_caller]
fn given<'w, S: Guarded<'w>>(at: &S, answer: &Value) {
    assert!(at.is_given(answer), "{answer}\n{}", at.agent().log());
}

#[track_caller]
fn seen<'w, S: Guarded<'w>>(at: &S, answer: &Value, expected: Seen) {
    match expected {
        Seen::Served => given(at, answer),
        Seen::Words(words) => {
            assert_eq!(answer["ok"], false, "{answer}");
            assert!(answer.to_string().contains(words), "{words}: {answer}");
            assert!(!answer.to_string().contains("canary"), "{answer}");
        }
    }
}

/// Who has a grant gets the real service's credential; the neighbour gets none, sees what it is to see, at once, and the real service
/// hears nothing of it.
pub fn allowed_and_denied<'w, S: Guarded<'w>>(world: &'w World, client: &Client) {
    let at = S::new(world);
    given(&at, &client.ask(world, &at));
    let before = at.asked();
    let begun = Instant::now();
    let answer = client.program.ask(world, &at.neighbour(), &[]).unwrap();
    seen(&at, &answer, client.denied);
    // An interpreter's start and a detection are in it, no row of further attempts.
    assert!(
        begun.elapsed() < patience(Duration::from_secs(8)),
        "{answer}"
    );
    assert_eq!(at.asked(), before, "the neighbour's request got out");
}

/// What ends is asked for anew; so it is when the agent was restarted meanwhile.
pub fn renewed_and_restarted<'w, S: Guarded<'w>>(world: &'w World, client: &Client) {
    let mut at = S::new(world);
    at.short();
    let mut staying = client
        .stays
        .then(|| Staying::start(&client.program, world, &at.granted()).unwrap());
    let mut first = true;
    for restarted in [false, false, true] {
        let before = if first { 0 } else { at.asked() };
        if restarted {
            at = at.restart();
        }
        let answer = match &mut staying {
            Some(client) if first => client.said().unwrap(),
            Some(client) => client.again().unwrap(),
            None => client.ask(world, &at),
        };
        given(&at, &answer);
        if let Some(client) = &mut staying
            && restarted
            && at.asked() == before
        {
            // Its connection ended with the old agent, and Amazon's SDK for Rust then goes on with what it has, once.
            given(&at, &client.again().unwrap());
        }
        assert!(at.asked() > before, "nothing new was asked for: {answer}");
        first = false;
        at.pause(Duration::ZERO);
    }
}

/// A real service in trouble is told as such or overcome, and gone with it is every trace of it.
pub fn in_trouble<'w, S: Guarded<'w>>(world: &'w World, client: &Client) {
    let at = S::new(world);
    at.short();
    for (trouble, expected) in [
        (Trouble::Status("500 Internal Server Error"), client.failing),
        (
            Trouble::Status("429 Too Many Requests\r\nRetry-After: 1"),
            client.throttled,
        ),
        (Trouble::Late(Duration::from_millis(2500)), client.slow),
    ] {
        at.fails(trouble, 1);
        let answer = client.ask(world, &at);
        let what = format!("{trouble:?}: {answer}");
        match expected {
            Seen::Served => assert!(at.is_given(&answer), "{what}\n{}", at.agent().log()),
            Seen::Words(words) => assert!(answer["ok"] == false && what.contains(words), "{what}"),
        }
        // Longer than a failure is repeated to others.
        at.pause(Duration::from_millis(600));
        given(&at, &client.ask(world, &at));
        at.pause(Duration::ZERO);
    }
}

/// The tests of each client: `name: Cloud = Client { … };`, one after the other.
#[macro_export]
macro_rules! ordeals {
    ($($name:ident: $cloud:ident = $client:expr;)+) => {$(
        mod $name {
            use super::*;
            use $crate::cloud::$cloud;

            fn world(about: &str) -> $crate::World {
                $crate::require!(Root, Cgroup2, Bpf, Agent);
                let name = stringify!($name).replace('_', "-");
                $crate::World::new(&format!("{name}-{about}")).unwrap()
            }

            #[test]
            #[ignore = "sdk: cargo xtask test sdk"]
            fn allowed_and_denied() {
                $crate::ordeal::allowed_and_denied::<$cloud<'_>>(&world("policy"), &$client);
            }

            #[test]
            #[ignore = "sdk: cargo xtask test sdk"]
            fn renewed_and_restarted() {
                $crate::ordeal::renewed_and_restarted::<$cloud<'_>>(&world("renewed"), &$client);
            }

            #[test]
            #[ignore = "sdk: cargo xtask test sdk"]
            fn in_trouble() {
                $crate::ordeal::in_trouble::<$cloud<'_>>(&world("trouble"), &$client);
            }
        }
    )+};
}
