//! A policy file into the compiler.
//!
//! Holds: no panic, also not when the diagnostics are shown; and a file without a workload allows nobody anything.
#![no_main]

use imds_guard_core::decision::Decision;
use imds_guard_core::policy::{Source, compile, includes};
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
            };
            let decision = compiled.policy.decide(&nobody, &request, 1_800_000_000);
            assert!(
                matches!(decision, Decision::Deny(_)),
                "a caller without any evidence was allowed"
            );
        }
    }
});
