//! Google's accounts: who has a token may know whose it is, and nobody else by that; what a request leaves out is what the rule
//! says; and what holds where nothing is enforced.

#![expect(
    clippy::panic,
    reason = "helpers of tests panic when the test's own input is wrong"
)]

use imds_guard_core::decision::{Decision, DenyReason, Grant, Permit};
use imds_guard_core::policy::{Mode, PolicySet, Settings, Source, compile};
use imds_guard_core::request::{Cloud, CredentialAsk, Request};
use imds_guard_core::selector::{Key, Selectors};

fn compiled(text: &str) -> (PolicySet, Settings) {
    let source = Source {
        name: "imds-guard.toml".into(),
        text: text.into(),
    };
    let compiled = compile(&[source], "web-07", 0).unwrap_or_else(|e| panic!("{e}"));
    (compiled.policy, compiled.settings)
}

const BUILD: &str = r#"
[identity.build]
cloud = "gcp"
source = "forward"
account = "build@p.iam.gserviceaccount.com"

[[workload]]
name = "build"
selectors = ["unix:user:build"]
[[workload.allow]]
name = "storage"
token = { cloud = "gcp", scopes = ["https://storage", "https://logging"] }
identity = "build"
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry"] }
identity = "build"

[[workload]]
name = "tree"
selectors = ["unix:group:tree"]
[[workload.allow]]
name = "whole-tree"
read = ["gcp:/computeMetadata/v1/**"]

[[workload]]
name = "other"
selectors = ["unix:user:other"]
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/instance/zone"]
"#;

fn read(below: &str, subtree: bool) -> Request {
    Request::Read {
        cloud: Cloud::Gcp,
        path: format!("/computeMetadata/v1/instance{below}").into(),
        subtree,
        imdsv1: false,
    }
}

fn token(account: &str, scopes: &[&str]) -> Request {
    Request::Credential(CredentialAsk::GcpToken {
        account: account.into(),
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
    })
}

fn ask(
    policy: &PolicySet,
    mode: Mode,
    caller: &str,
    request: &Request,
) -> Result<Permit, DenyReason> {
    let caller = Selectors::parse(caller).unwrap_or_else(|e| panic!("{e}"));
    match policy.decide_at(mode, &policy.identify(&caller), request, 0) {
        Decision::Allow(permit) => Ok(permit),
        Decision::Deny(denial) => Err(denial.reason),
    }
}

fn scopes(permit: &Permit) -> Option<Vec<&str>> {
    permit
        .scopes()
        .map(|scopes| scopes.iter().map(|scope| &**scope).collect())
}

const BUILD_ACCOUNT: &str = "/service-accounts/build@p.iam.gserviceaccount.com";

#[test]
fn who_has_a_token_may_know_whose_it_is() {
    let (policy, _) = compiled(BUILD);
    let own = |caller: &str, below: &str, subtree| {
        ask(&policy, Mode::Enforce, caller, &read(below, subtree))
    };
    for below in [
        "/service-accounts",
        "/service-accounts/default",
        "/service-accounts/default/email",
        BUILD_ACCOUNT,
    ] {
        for subtree in [false, true] {
            let permit =
                own("unix:user:build", below, subtree).unwrap_or_else(|e| panic!("{below}: {e:?}"));
            assert_eq!(
                scopes(&permit),
                Some(vec!["https://storage", "https://logging"])
            );
            assert!(
                matches!(permit.grant(), Grant::Forward { identity: Some(identity) } if *identity.name == *"build")
            );
        }
        assert_eq!(
            own("unix:user:other", below, false),
            Err(DenyReason::NoRule),
            "{below}"
        );
        // By a rule for reads: as the real server has it, which says nothing of a rule for tokens.
        let permit =
            own("unix:group:tree", below, false).unwrap_or_else(|e| panic!("{below}: {e:?}"));
        assert_eq!(
            (permit.grant(), scopes(&permit)),
            (&Grant::Forward { identity: None }, None)
        );
        // Both: its own account, not the machine's.
        let permit = own("unix:user:build unix:group:tree", below, true)
            .unwrap_or_else(|e| panic!("{below}: {e:?}"));
        assert!(scopes(&permit).is_some());
    }
    assert_eq!(
        own("unix:user:build", "/service-accounts/x@p/email", false),
        Err(DenyReason::OtherIdentity)
    );
    for below in [
        "/zone",
        "",
        "/service-accounts/default/other",
        "/service-accounts-x",
    ] {
        assert_eq!(
            own("unix:user:build", below, false),
            Err(DenyReason::NoRule),
            "{below}"
        );
    }
}

#[test]
fn a_deny_of_reads_holds_for_ones_own_account_too() {
    let deny =
        "\n[[deny]]\nread = [\"gcp:/computeMetadata/v1/instance/service-accounts/*/scopes\"]\n";
    let (policy, _) = compiled(&format!("{BUILD}{deny}"));
    let own = |below: &str, subtree| {
        ask(
            &policy,
            Mode::Enforce,
            "unix:user:build",
            &read(below, subtree),
        )
        .map(|_| ())
    };
    assert_eq!(
        own("/service-accounts/default/scopes", false),
        Err(DenyReason::DenyRule)
    );
    assert_eq!(
        own("/service-accounts/default", true),
        Err(DenyReason::DenyRule)
    );
    assert_eq!(own("/service-accounts/default/email", false), Ok(()));
    assert_eq!(own("/service-accounts/default", false), Ok(()));
}

#[test]
fn scopes_that_nobody_names_are_those_of_the_rule() {
    let (policy, _) = compiled(BUILD);
    let ask = |mode, request: &Request| ask(&policy, mode, "unix:user:build", request);
    let own = ask(Mode::Enforce, &token("default", &[])).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(
        scopes(&own),
        Some(vec!["https://storage", "https://logging"])
    );
    let named = ask(Mode::Enforce, &token("default", &["https://logging"]));
    assert_eq!(named.map(|permit| permit.scopes().cloned()), Ok(None));
    let more = token("default", &["https://logging", "https://cloud-platform"]);
    assert_eq!(
        ask(Mode::Enforce, &more).map(|_| ()),
        Err(DenyReason::NoRule)
    );
    assert_eq!(
        ask(Mode::Enforce, &token("x@p", &[])).map(|_| ()),
        Err(DenyReason::OtherIdentity)
    );
    // Where nothing is enforced the request goes on as it was written: for all scopes, which no list covers.
    let audited = ask(Mode::Audit, &token("default", &[])).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(scopes(&audited), None);
    assert_eq!(
        audited.would_deny().map(|denial| denial.reason),
        Some(DenyReason::NoRule)
    );
}

#[test]
fn a_deny_of_a_scope_reaches_who_names_none() {
    let deny = |scope: &str| {
        format!("{BUILD}\n[[deny]]\ntoken = {{ cloud = \"gcp\", scopes = [\"{scope}\"] }}\n")
    };
    let all = token("default", &[]);
    for (scope, mode, refused) in [
        ("https://logging", Mode::Enforce, true),
        ("https://cloud-platform", Mode::Enforce, false),
        // It goes on for all scopes that there are.
        ("https://cloud-platform", Mode::Audit, true),
    ] {
        let (policy, _) = compiled(&deny(scope));
        let decided = ask(&policy, mode, "unix:user:build", &all);
        assert_eq!(
            decided.map_err(|e| e == DenyReason::DenyRule).err(),
            refused.then_some(true),
            "{scope} {mode:?}"
        );
    }
}

/// Two workloads with other scopes: the caller has to name them, also where it is only not known whether it is both.
#[test]
fn two_rules_leave_nothing_to_fill_in() {
    let second = r#"
    [[workload]]
    name = "reports"
    selectors = ["systemd:id:reports.service"]
    [[workload.allow]]
    token = { cloud = "gcp", scopes = ["https://bigquery"] }
    identity = "build"
    "#;
    let (policy, _) = compiled(&format!("{BUILD}{second}"));
    let both = "unix:user:build systemd:id:reports.service";
    let none = token("default", &[]);
    assert_eq!(
        ask(&policy, Mode::Enforce, both, &none).map(|_| ()),
        Err(DenyReason::NoRule)
    );
    for named in ["https://bigquery", "https://storage"] {
        assert!(ask(&policy, Mode::Enforce, both, &token("default", &[named])).is_ok());
    }
    let mut hidden = Selectors::parse(both).unwrap_or_else(|e| panic!("{e}"));
    hidden.unavailable(Key::SystemdId, "the attestor failed");
    let decided = policy.decide(&policy.identify(&hidden), &none, 0);
    assert!(matches!(decided, Decision::Deny(_)), "{decided:?}");
}

const MINT: &str = r#"
[host]
trust_domain = "example.org"
[issuer]
url = "http://127.0.0.1:8787"
[identity.build]
cloud = "gcp"
source = "mint"
account = "build@p.iam.gserviceaccount.com"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
[[workload]]
name = "build"
selectors = ["unix:user:build"]
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry"] }
identity = "build"
"#;

#[test]
fn an_identity_token_is_minted_for_the_audience_of_the_rule_alone() {
    let (policy, _) = compiled(MINT);
    let identity = |account: &str, audience: &str| {
        let request = Request::Credential(CredentialAsk::GcpIdentity {
            account: account.into(),
            audience: audience.into(),
        });
        ask(&policy, Mode::Enforce, "unix:user:build", &request)
    };
    let permit = identity("default", "https://registry").unwrap_or_else(|e| panic!("{e:?}"));
    assert!(
        matches!(permit.grant(), Grant::Mint { audience, subject, .. }
        if **audience == *"https://registry" && **subject == *"spiffe://example.org/host/web-07/workload/build")
    );
    for (account, audience, why) in [
        ("default", "https://registry/", DenyReason::NoRule),
        ("default", "https://other", DenyReason::NoRule),
        ("x@p", "https://registry", DenyReason::OtherIdentity),
    ] {
        assert_eq!(
            identity(account, audience).map(|_| ()),
            Err(why),
            "{account} {audience}"
        );
    }
    let access = ask(
        &policy,
        Mode::Enforce,
        "unix:user:build",
        &token("default", &[]),
    );
    assert_eq!(access.map(|_| ()), Err(DenyReason::NoRule));
    let account = ask(
        &policy,
        Mode::Enforce,
        "unix:user:build",
        &read("/service-accounts/default", true),
    );
    assert_eq!(
        account.map(|permit| scopes(&permit).map(|s| s.len())),
        Ok(Some(0))
    );
}

/// Nobody can look into TLS: open or shut, and shut where what it carries is guarded.
#[test]
fn the_channel_that_nobody_can_look_into_is_open_or_shut() {
    let mode = |endpoints: &str| {
        let (_, settings) = compiled(&format!("[endpoints]\n{endpoints}\n{BUILD}"));
        let all = settings.guarded();
        let at = all.iter().filter(|guarded| guarded.address.port() == 443);
        let modes: Vec<Mode> = at.map(|guarded| guarded.mode).collect();
        assert_eq!(modes.len(), 2);
        assert_eq!(modes[0], modes[1]);
        modes[0]
    };
    for (endpoints, is) in [
        ("", Mode::Enforce),
        ("gcp-imds = \"audit\"", Mode::Observe),
        ("gcp-imds = \"observe\"", Mode::Observe),
        (
            "gcp-imds = \"audit\"\ngcp-mtls = \"enforce\"",
            Mode::Enforce,
        ),
        ("gcp-mtls = \"observe\"", Mode::Observe),
    ] {
        assert_eq!(mode(endpoints), is, "{endpoints}");
    }
}
