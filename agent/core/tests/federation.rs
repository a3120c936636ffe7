//! What federated identities come to: which assertion for whom, exchanged where and for what, and for whom never.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions beside the tests"
)]

use imds_guard_core::decision::{Decision, DenyReason, Grant, Target};
use imds_guard_core::policy::federation::{Assertion, Exchange, Federation};
use imds_guard_core::policy::{Mode, PolicySet, Source, compile};
use imds_guard_core::request::{AzureIdentity, Cloud, CredentialAsk, Request};
use imds_guard_core::selector::Selectors;
use std::sync::Arc;

const POLICY: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"

[issuer]
url = "https://idp.example.org/hosts"

[identity.billing]
cloud = "azure"
source = "federate"
tenant_id = "11111111-2222-3333-4444-555555555555"
client_id = "22222222-2222-3333-4444-555555555555"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"

[identity.sovereign]
cloud = "azure"
source = "federate"
tenant_id = "example.onmicrosoft.us"
client_id = "c"
authority = "https://login.microsoftonline.us/"
assertion = { file = "/run/secrets/token" }

[identity.batch]
cloud = "aws"
source = "federate"
role = "arn:aws:iam::123456789012:role/jobs/batch"
region = "eu-central-1"
lifetime = "15m"
tags = { team = "data" }
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}/aws"

[identity.build]
cloud = "gcp"
source = "federate"
provider = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/hosts/providers/example"
account = "build@p.iam.gserviceaccount.com"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}/gcp"

[[workload]]
name = "billing"
selectors = ["systemd:id:billing.service"]

[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"

[[workload.allow]]
token = { cloud = "azure", resource = ["https://storage.azure.com/"] }
identity = "sovereign"

[[workload.allow]]
token = { cloud = "aws" }
identity = "batch"

[[workload.allow]]
token = { cloud = "gcp", scopes = ["https://b", "https://a"], audience = ["https://run.example"] }
identity = "build"
"#;

fn policy(text: &str) -> PolicySet {
    let source = Source {
        name: "main".into(),
        text: text.into(),
    };
    compile(&[source], "host", 0)
        .unwrap_or_else(|e| panic!("{e}"))
        .policy
}

fn ask(set: &PolicySet, mode: Mode, who: &str, ask: CredentialAsk) -> Decision {
    let caller = set.identify(&Selectors::parse(who).unwrap());
    set.decide_at(mode, &caller, &Request::Credential(ask), 0)
}

fn azure(resource: &str, client_id: Option<&str>) -> CredentialAsk {
    CredentialAsk::AzureToken {
        resource: resource.into(),
        selector: client_id.map(|id| AzureIdentity::ClientId(id.into())),
    }
}

fn gcp(scopes: &[&str]) -> CredentialAsk {
    CredentialAsk::GcpToken {
        account: "default".into(),
        scopes: scopes.iter().map(|s| Arc::from(*s)).collect(),
    }
}

const BILLING: &str = "systemd:id:billing.service";

fn granted(asked: CredentialAsk) -> (Arc<Federation>, Target, Option<Arc<str>>) {
    let set = policy(POLICY);
    for mode in [Mode::Audit, Mode::Enforce] {
        let Decision::Allow(permit) = ask(&set, mode, BILLING, asked.clone()) else {
            panic!("denied in {mode:?}")
        };
        let Grant::Federate {
            identity,
            target,
            subject,
        } = permit.grant().clone()
        else {
            panic!("{:?}", permit.grant())
        };
        if mode == Mode::Enforce {
            return (identity.federation.clone().unwrap(), target, subject);
        }
    }
    unreachable!()
}

#[test]
fn entra_by_our_own_issuer() {
    let (federation, target, subject) = granted(azure("https://vault.azure.net/", None));
    assert_eq!(target, Target::Resource("https://vault.azure.net".into()));
    assert_eq!(
        subject.as_deref(),
        Some("spiffe://example.org/host/web-07/workload/billing")
    );
    assert_eq!(&*federation.audience, "api://AzureADTokenExchange");
    let Exchange::Entra { url } = &federation.exchange else {
        panic!()
    };
    assert_eq!(
        url.to_string(),
        "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token"
    );
    granted(azure(
        "https://vault.azure.net",
        Some("22222222-2222-3333-4444-555555555555"),
    ));
}

#[test]
fn a_sovereign_entra_by_somebody_elses_assertion() {
    let (federation, _, subject) = granted(azure("https://storage.azure.com/", None));
    assert_eq!(subject, None);
    assert_eq!(
        federation.assertion,
        Assertion::File("/run/secrets/token".into())
    );
    assert_eq!(&*federation.audience, "api://AzureADTokenExchangeUSGov");
    let Exchange::Entra { url } = &federation.exchange else {
        panic!()
    };
    assert_eq!(&**url.host(), "login.microsoftonline.us");
}

#[test]
fn a_role_of_aws_named_or_not() {
    for role in [Some("batch".into()), None] {
        let (federation, target, subject) = granted(CredentialAsk::AwsRole {
            role,
            imdsv1: false,
        });
        assert_eq!(target, Target::Role("batch".into()));
        assert_eq!(
            subject.as_deref(),
            Some("spiffe://example.org/host/web-07/workload/billing/aws")
        );
        assert_eq!(&*federation.audience, "sts.amazonaws.com");
        let Exchange::Aws { url, .. } = &federation.exchange else {
            panic!()
        };
        assert_eq!(url.to_string(), "https://sts.eu-central-1.amazonaws.com/");
    }
}

#[test]
fn scopes_are_the_rules_and_in_one_order() {
    let all = Target::Scopes(["https://a".into(), "https://b".into()].into());
    let (federation, target, _) = granted(gcp(&[]));
    assert_eq!(target, all);
    assert_eq!(
        &*federation.audience,
        "https://iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/hosts/providers/example"
    );
    assert_eq!(
        granted(gcp(&["https://a", "https://b", "https://a"])).1,
        all
    );
    assert_eq!(
        granted(gcp(&["https://b"])).1,
        Target::Scopes(["https://b".into()].into())
    );
    let identity = CredentialAsk::GcpIdentity {
        account: "default".into(),
        audience: "https://run.example".into(),
    };
    assert_eq!(
        granted(identity).1,
        Target::Audience("https://run.example".into())
    );
}

#[test]
fn nobody_else_gets_any_of_it_in_any_mode() {
    let set = policy(POLICY);
    let denied = |mode, who: &str, asked| match ask(&set, mode, who, asked) {
        Decision::Deny(denial) => denial.reason,
        Decision::Allow(permit) => panic!("{:?}", permit.grant()),
    };
    assert_eq!(
        denied(
            Mode::Enforce,
            "systemd:id:other.service",
            azure("https://vault.azure.net", None)
        ),
        DenyReason::NoWorkload
    );
    assert_eq!(
        denied(
            Mode::Enforce,
            BILLING,
            azure("https://management.azure.com", None)
        ),
        DenyReason::NoRule
    );
    // A rule that federates is enforced where the endpoint is in audit, too: another identity is refused, and not passed on.
    for mode in [Mode::Audit, Mode::Enforce] {
        assert_eq!(
            denied(
                mode,
                BILLING,
                azure("https://vault.azure.net", Some("other"))
            ),
            DenyReason::OtherIdentity
        );
    }
    // Nor does audit pass it on by mistake: what is let through there is what no rule makes.
    let caller = Selectors::parse("systemd:id:other.service").unwrap();
    let passed = set.decide_at(
        Mode::Audit,
        &set.identify(&caller),
        &Request::Credential(gcp(&[])),
        0,
    );
    let Decision::Allow(permit) = passed else {
        panic!()
    };
    assert_eq!(permit.grant(), &Grant::Forward { identity: None });
}

#[test]
fn whose_account_it_is_may_be_read_and_nothing_is_exchanged_for_that() {
    let set = policy(POLICY);
    let caller = set.identify(&Selectors::parse(BILLING).unwrap());
    let read = Request::Read {
        cloud: Cloud::Gcp,
        path: "/computeMetadata/v1/instance/service-accounts/default".into(),
        subtree: true,
        imdsv1: false,
    };
    let Decision::Allow(permit) = set.decide_at(Mode::Enforce, &caller, &read, 0) else {
        panic!()
    };
    assert!(matches!(
        permit.grant(),
        Grant::Forward { identity: Some(_) }
    ));
    assert_eq!(permit.scopes().map(|s| s.len()), Some(2));
}

#[test]
fn a_subject_that_comes_out_too_long_is_never_signed() {
    let long = POLICY
        .replace(
            "selectors = [\"systemd:id:billing.service\"]",
            "selectors = [\"k8s:ns:{ns}\"]",
        )
        .replace("workload/{workload}/gcp", "workload/{workload}/{ns}/gcp")
        .replace("workload/{workload}/aws", "workload/{workload}/{ns}/aws")
        .replace("workload/{workload}\"", "workload/{workload}/{ns}\"");
    let set = policy(&long);
    let of = |bytes: usize| {
        let who = format!("k8s:ns:{}", "n".repeat(bytes));
        ask(&set, Mode::Enforce, &who, gcp(&["https://a"]))
    };
    assert!(matches!(of(63), Decision::Allow(_)));
    let Decision::Deny(denial) = of(80) else {
        panic!()
    };
    assert_eq!(denial.reason, DenyReason::NotServed);
}

#[test]
fn printed_it_is_the_same_policy() {
    let first = policy(POLICY);
    let second = policy(&first.to_toml().unwrap());
    assert_eq!(first.to_toml().unwrap(), second.to_toml().unwrap());
}
