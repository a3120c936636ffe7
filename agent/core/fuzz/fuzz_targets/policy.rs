//! A policy file into the compiler.
//!
//! Holds: no panic, also not when the diagnostics are shown; and no file grants anything to a caller without evidence: where its
//! endpoint isn't enforced, the request passes as it would without us, and is marked so.
#![no_main]

use imds_guard_core::decision::Decision;
use imds_guard_core::policy::{Mode, Source, compile, includes};
use imds_guard_core::request::{Cloud, Request};
use imds_guard_core::selector::Selectors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source {
        name: "fuzz.toml".into(),
        text: text.into(),
    };
    let _includes = includes(&source);
    match compile(&[source], "host", 1_800_000_000) {
        Err(diagnostics) => {
            let _shown = diagnostics.to_string();
        }
        Ok(compiled) => {
            let nobody = compiled.policy.identify(&Selectors::default());
            let request = Request::Read {
                cloud: Cloud::Azure,
                path: "/metadata/instance".into(),
                subtree: true,
                imdsv1: false,
            };
            let (policy, now) = (&compiled.policy, 1_800_000_000);
            let enforced = policy.decide_at(Mode::Enforce, &nobody, &request, now);
            assert!(
                matches!(enforced, Decision::Deny(_)),
                "a caller without any evidence was allowed"
            );
            if let Decision::Allow(permit) = policy.decide(&nobody, &request, now) {
                assert!(permit.would_deny().is_some(), "passed unmarked");
            }
        }
    }
});
