//! Nanoseconds per `identify` and `decide`, with 10 and with 100,000 rules.
//! `cargo run --release -p imds-guard-core --example decide_speed`

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use imds_guard_core::policy::{PolicySet, Source, Workload, compile};
use imds_guard_core::request::{Cloud, CredentialAsk, Request};
use imds_guard_core::selector::Selectors;

/// A policy of `rules` rules: half workloads with an allow each, a quarter selective denies, a quarter general ones.
fn policy(rules: usize) -> PolicySet {
    let mut text = String::from("[identity.x]\ncloud=\"azure\"\nsource=\"forward\"\n");
    for n in 0..rules / 2 {
        let allow = if n % 2 == 0 {
            "token = { cloud = \"azure\", resource = [\"https://vault.azure.net\"] }\nidentity = \"x\"".to_owned()
        } else {
            format!("read = [\"azure:/metadata/instance/compute/x{n}/**\"]")
        };
        let _infallible = writeln!(
            text,
            "[[workload]]\nname=\"w{n}\"\nselectors=[\"systemd:id:w{n}.service\",\"unix:uid:{n}\"]\n[[workload.allow]]\n{allow}"
        );
    }
    for n in 0..rules / 4 {
        let _infallible = writeln!(
            text,
            "[[deny]]\nselectors=[\"systemd:id:d{n}.service\"]\ntoken={{cloud=\"azure\"}}\n[[deny]]\ntoken={{cloud=\"azure\",resource=[\"api://{n}\"]}}\nread=[\"azure:/metadata/instance/secret{n}/**\"]"
        );
    }
    let source = Source {
        name: "speed.toml".into(),
        text: text.into(),
    };
    match compile(&[source], "host", 0) {
        Ok(compiled) => compiled.policy,
        Err(diagnostics) => unreachable!("{diagnostics}"),
    }
}

/// The best of several rounds, in nanoseconds per call.
fn time<T>(mut call: impl FnMut() -> T) -> u128 {
    const CALLS: u128 = 20_000;
    let round = |_| {
        let begun = Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        begun.elapsed().as_nanos() / CALLS
    };
    (0..15).map(round).min().unwrap_or_default()
}

/// Nanoseconds that this process was on a CPU: what compiling costs on a machine that others use, too.
fn cpu() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().map_err(std::io::Error::other)
}

fn main() -> std::io::Result<()> {
    let caller = "unix:uid:0 unix:user:root unix:gid:0 unix:group:root unix:supplementary_gid:4 unix:supplementary_group:adm \
        unix:path:/usr/bin/billing unix:sha256:3a6eb079 cgroup:path:/system.slice/w0.service systemd:id:w0.service systemd:slice:system.slice";
    let Ok(caller) = Selectors::parse(caller) else {
        unreachable!("these are selectors")
    };
    let token = Request::Credential(CredentialAsk::AzureToken {
        resource: "https://vault.azure.net".into(),
        selector: None,
    });
    let read = Request::Read {
        cloud: Cloud::Azure,
        path: "/metadata/instance/compute/location".into(),
        subtree: false,
        imdsv1: false,
    };
    let mut out = std::io::stdout();
    for rules in [10, 100_000] {
        let (begun, before) = (Instant::now(), cpu()?);
        let set = policy(rules);
        let compiled = begun.elapsed().as_millis();
        let on_cpu = cpu()?.saturating_sub(before) / 1_000_000;
        let workload: Workload = set.identify(&caller);
        let identify = time(|| set.identify(black_box(&caller)));
        let allow = time(|| set.decide(black_box(&workload), black_box(&token), 0));
        let deny = time(|| set.decide(black_box(&workload), black_box(&read), 0));
        writeln!(
            out,
            "{rules:>7} rules: identify {identify} ns, decide {allow} ns (token, allowed), {deny} ns (read, refused); compiled in {compiled} ms, {on_cpu} of them on a CPU"
        )?;
    }
    Ok(())
}
