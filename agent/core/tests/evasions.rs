//! Ways round a policy that was written with care: each is tried, beside the same request written honestly.

#![expect(
    clippy::panic,
    reason = "helpers of tests panic when the test's own input is wrong"
)]

use imds_guard_core::decision::{Decision, DenyReason, Grant};
use imds_guard_core::policy::{Mode, PolicySet, Source, compile};
use imds_guard_core::request::{AzureIdentity, CredentialAsk, Request};
use imds_guard_core::selector::{Key, Selectors};

fn policy(text: &str) -> PolicySet {
    let source = Source {
        name: "imds-guard.toml".into(),
        text: text.into(),
    };
    compile(&[source], "web-07", 0)
        .unwrap_or_else(|e| panic!("{e}"))
        .policy
}

fn token(resource: &str) -> Request {
    Request::Credential(CredentialAsk::AzureToken {
        resource: resource.into(),
        selector: None,
    })
}

const NO_ARM: &str = r#"
[endpoints]
azure-imds = "audit"

[[workload]]
name = "web"
selectors = ["unix:user:web"]
[[workload.allow]]
read = ["azure:/metadata/instance/**"]

[[deny]]
token = { cloud = "azure", resource = ["https://management.azure.com", "https://kusto.example"] }
"#;

/// In audit mode what no rule names is let through, so there a deny is only as good as its knowledge of names. What Entra ID
/// makes of each of these is not documented; the deny must not depend on it.
#[test]
fn a_deny_holds_for_every_way_to_write_its_resource_where_the_unknown_is_let_through() {
    let policy = policy(NO_ARM);
    let caller = policy.identify(&Selectors::parse("unix:user:web").unwrap());
    let ask = |resource: &str| policy.decide_at(Mode::Audit, &caller, &token(resource), 0);
    for arm in [
        "https://management.azure.com",
        "https://management.azure.com//",
        "HTTPS://Management.Azure.Com/.default",
        "https://management.azure.com:443",
        "https://management.azure.com:443/",
        "https://management.azure.com./",
        "https://user@management.azure.com/",
        "https://management.azure.com/?api-version=1",
        "https://management.azure.com#x",
        "http://management.azure.com/",
        "https://management.core.windows.net/.default",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013/.default",
        "{797F4846-ba00-4fd7-ba43-dac1f8f63013}",
        "spn:797f4846-ba00-4fd7-ba43-dac1f8f63013",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013/management.azure.com@tenant",
        "https://kusto.example/.default",
    ] {
        match ask(arm) {
            Decision::Deny(denial) => assert_eq!(denial.reason, DenyReason::DenyRule, "{arm}"),
            Decision::Allow(permit) => panic!("{arm}: {permit:?}"),
        }
    }
    for other in [
        "https://vault.azure.net",
        "https://vault.azure.net:443/",
        "https://management.azure.com.other.example/",
        "https://not-management.azure.com/",
        "https://other.example/management.azure.com",
        "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
    ] {
        assert!(matches!(ask(other), Decision::Allow(_)), "{other}");
    }
}

/// The loose reading is for denies alone: a grant is for the names that it has.
#[test]
fn an_allow_covers_only_the_names_of_its_resource() {
    let policy = policy(
        r#"
        [identity.any]
        cloud = "azure"
        source = "forward"
        [[workload]]
        name = "web"
        selectors = ["unix:user:web"]
        [[workload.allow]]
        token = { cloud = "azure", resource = ["https://vault.azure.net"] }
        identity = "any"
        "#,
    );
    let caller = policy.identify(&Selectors::parse("unix:user:web").unwrap());
    let allowed = |resource| {
        matches!(
            policy.decide(&caller, &token(resource), 0),
            Decision::Allow(_)
        )
    };
    assert!(allowed("https://vault.azure.net/"));
    for other in [
        "https://vault.azure.net:443",
        "https://vault.azure.net/.default",
        "http://vault.azure.net",
        "spn:cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
    ] {
        assert!(!allowed(other), "{other}");
    }
}

const TENANTS: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "http://127.0.0.1:8787"
[identity.tenant]
cloud = "azure"
source = "mint"
subject = "spiffe://{trust_domain}/host/{host}/tenant/{tenant}"

[[workload]]
name = "tenants"
any_of = [["systemd:id:{tenant}.service"], ["unix:user:{tenant}"]]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "tenant"
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
"#;

/// Two alternatives of one workload that bind a variable to two values are two identities, as two workloads would be.
#[test]
fn one_workload_that_gives_two_subjects_gives_none() {
    let policy = policy(TENANTS);
    let subject = |caller: &Selectors| {
        let caller = policy.identify(caller);
        match policy.decide(&caller, &token("https://vault.azure.net"), 0) {
            Decision::Allow(permit) => match permit.grant() {
                Grant::Mint { subject, .. } => Ok(subject.to_string()),
                other => panic!("{other:?}"),
            },
            Decision::Deny(denial) => Err(denial.reason),
        }
    };
    let parse = |text| Selectors::parse(text).unwrap();
    let of = |tenant: &str| Ok(format!("spiffe://example.org/host/web-07/tenant/{tenant}"));
    assert_eq!(subject(&parse("systemd:id:a.service")), of("a"));
    assert_eq!(subject(&parse("systemd:id:a.service unix:user:a")), of("a"));
    let both = parse("systemd:id:a.service unix:user:b");
    assert_eq!(subject(&both), Err(DenyReason::AmbiguousWorkload));
    // What a failed attestor hides may be the other one: it must not choose.
    for hidden in [Key::SystemdId, Key::UnixUser] {
        let mut less = both.clone();
        less.unavailable(hidden, "the attestor failed");
        assert_eq!(
            subject(&less),
            Err(DenyReason::AmbiguousWorkload),
            "{hidden}"
        );
    }
    // What has no identity is not ambiguous.
    let read = Request::Read {
        cloud: imds_guard_core::request::Cloud::Azure,
        path: "/metadata/instance/compute".into(),
        subtree: true,
        imdsv1: false,
    };
    let caller = policy.identify(&both);
    assert!(matches!(
        policy.decide(&caller, &read, 0),
        Decision::Allow(_)
    ));
}

/// A deny takes what a failed attestor hides for present: breaking an attestor never frees anyone of a deny.
#[test]
fn a_selective_deny_holds_where_its_evidence_is_unavailable() {
    let policy = policy(
        r#"
        [identity.any]
        cloud = "azure"
        source = "forward"
        [[workload]]
        name = "web"
        selectors = ["unix:uid:1"]
        [[workload.allow]]
        token = { cloud = "azure", resource = ["https://vault.azure.net"] }
        identity = "any"
        [[deny]]
        token = { cloud = "azure", resource = ["https://vault.azure.net"] }
        selectors = ["systemd:id:x.service", "cgroup:path:/s/**"]
        "#,
    );
    let allowed = |has: &str, hidden: &[Key]| {
        let mut caller = Selectors::parse(&format!("unix:uid:1 {has}")).unwrap();
        for key in hidden {
            caller.unavailable(*key, "the attestor failed");
        }
        let caller = policy.identify(&caller);
        let decision = policy.decide(&caller, &token("https://vault.azure.net"), 0);
        matches!(decision, Decision::Allow(_))
    };
    assert!(allowed("", &[]));
    assert!(allowed("systemd:id:x.service cgroup:path:/other", &[]));
    assert!(!allowed("systemd:id:x.service cgroup:path:/s/t", &[]));
    assert!(!allowed("cgroup:path:/s/t", &[Key::SystemdId]));
    assert!(!allowed("systemd:id:x.service", &[Key::CgroupPath]));
    assert!(!allowed("", &[Key::SystemdId, Key::CgroupPath]));
    // What is known and speaks against the deny still does.
    assert!(allowed("cgroup:path:/other", &[Key::SystemdId]));
}

/// In audit mode a rule that mints is still enforced: what it refuses is not forwarded instead, under whatever identity the
/// machine has. The same rule with a forwarded identity lets pass and says so.
#[test]
fn what_a_minting_rule_refuses_is_not_forwarded_in_audit_mode() {
    let text = r#"
        [host]
        trust_domain = "example.org"
        [issuer]
        url = "http://127.0.0.1:8787"
        [identity.a]
        cloud = "azure"
        source = "mint"
        client_id = "11111111-2222-3333-4444-555555555555"
        subject = "spiffe://{trust_domain}/host/{host}/a/{workload}"
        [identity.b]
        cloud = "azure"
        source = "mint"
        client_id = "99999999-2222-3333-4444-555555555555"
        subject = "spiffe://{trust_domain}/host/{host}/b/{workload}"
        [[workload]]
        name = "one"
        selectors = ["unix:uid:1"]
        [[workload.allow]]
        token = { cloud = "azure", resource = ["https://vault.azure.net"] }
        identity = "a"
        [[workload]]
        name = "other"
        selectors = ["unix:gid:2"]
        [[workload.allow]]
        token = { cloud = "azure", resource = ["https://vault.azure.net"] }
        identity = "b"
    "#;
    let forwards = text
        .replace("source = \"mint\"", "source = \"forward\"")
        .replace("subject = ", "# ");
    let other = Request::Credential(CredentialAsk::AzureToken {
        resource: "https://vault.azure.net".into(),
        selector: Some(AzureIdentity::ClientId("someone else".into())),
    });
    for (caller, request, why) in [
        ("unix:uid:1", &other, DenyReason::OtherIdentity),
        (
            "unix:uid:1 unix:gid:2",
            &token("https://vault.azure.net"),
            DenyReason::AmbiguousWorkload,
        ),
    ] {
        let decide = |text: &str| {
            let policy = policy(text);
            let caller = policy.identify(&Selectors::parse(caller).unwrap());
            policy.decide_at(Mode::Audit, &caller, request, 0)
        };
        match decide(text) {
            Decision::Deny(denial) => assert_eq!(denial.reason, why),
            Decision::Allow(permit) => panic!("{caller}: {permit:?}"),
        }
        match decide(&forwards) {
            Decision::Deny(denial) => panic!("{caller}: {denial:?}"),
            Decision::Allow(permit) => {
                assert_eq!(permit.grant(), &Grant::Forward { identity: None });
                assert_eq!(permit.would_deny().map(|denial| denial.reason), Some(why));
            }
        }
    }
}

/// Reading a parent shows all that is below it: a grant of the parent's own name alone isn't a grant of that.
#[test]
fn an_exact_grant_does_not_cover_a_recursive_read() {
    let policy = policy(
        r#"
        [[workload]]
        name = "web"
        selectors = ["unix:uid:1"]
        [[workload.allow]]
        read = ["azure:/metadata/instance/compute"]
        "#,
    );
    let caller = policy.identify(&Selectors::parse("unix:uid:1").unwrap());
    let allowed = |subtree| {
        let read = Request::Read {
            cloud: imds_guard_core::request::Cloud::Azure,
            path: "/metadata/instance/compute".into(),
            subtree,
            imdsv1: false,
        };
        matches!(policy.decide(&caller, &read, 0), Decision::Allow(_))
    };
    assert!(allowed(false));
    assert!(!allowed(true));
}
