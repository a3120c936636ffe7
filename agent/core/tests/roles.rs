//! AWS: which role a caller gets that names none, what a request without a session token is worth, and what a deny of a role
//! reaches.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may end with a panic, also where its own input is wrong"
)]

use imds_guard_core::decision::{Decision, DenyReason, Grant};
use imds_guard_core::policy::{Mode, PolicySet, Source, compile};
use imds_guard_core::request::{Cloud, CredentialAsk, Request};
use imds_guard_core::selector::Selectors;

const IDENTITIES: &str = r#"
[identity.a]
cloud = "aws"
source = "forward"
role = "role-a"

[identity.b]
cloud = "aws"
source = "forward"
role = "arn:aws:iam::123456789012:role/path/role-b"

[identity.instance]
cloud = "aws"
source = "forward"
role = "identity-credentials/ec2/security-credentials/ec2-instance"
"#;

const LEGACY: &str = "imdsv1 = true\nuntil = 2099-01-01\nowner = \"x\"\nlimit = \"5/s\"\n";

fn policy(rest: &str) -> PolicySet {
    let source = Source {
        name: "p.toml".into(),
        text: format!("{IDENTITIES}\n{rest}").into(),
    };
    compile(&[source], "h", 0)
        .unwrap_or_else(|e| panic!("{e}"))
        .policy
}

fn role(name: Option<&str>, imdsv1: bool) -> Request {
    Request::Credential(CredentialAsk::AwsRole {
        role: name.map(Into::into),
        imdsv1,
    })
}

fn read(path: &str, imdsv1: bool) -> Request {
    Request::Read {
        cloud: Cloud::Aws,
        path: path.into(),
        subtree: false,
        imdsv1,
    }
}

/// The identity's role, or why not.
fn ask(policy: &PolicySet, who: &str, request: &Request) -> Result<String, DenyReason> {
    let caller = policy.identify(&Selectors::parse(who).unwrap());
    match policy.decide(&caller, request, 0) {
        Decision::Allow(permit) => match permit.grant() {
            Grant::Forward { identity } => {
                let role = identity.as_ref().and_then(|i| i.role_name());
                Ok(role.unwrap_or_default().to_owned())
            }
            other => panic!("{other:?}"),
        },
        Decision::Deny(denial) => Err(denial.reason),
    }
}

fn workload(name: &str, who: &str, rules: &[(&str, &str)]) -> String {
    let mut text = format!("[[workload]]\nname = \"{name}\"\nselectors = [\"{who}\"]\n");
    for (identity, rest) in rules {
        text.push_str(&format!(
            "[[workload.allow]]\ntoken = {{ cloud = \"aws\" }}\nidentity = \"{identity}\"\n{rest}\n"
        ));
    }
    text
}

#[test]
fn who_names_no_role_gets_its_own() {
    let set = policy(&workload("w", "unix:uid:1", &[("a", ""), ("b", "")]));
    let is =
        |name, want: &str| assert_eq!(ask(&set, "unix:uid:1", &role(name, false)), Ok(want.into()));
    is(None, "role-a");
    is(Some("role-a"), "role-a");
    is(Some("role-b"), "role-b");
    assert_eq!(
        ask(&set, "unix:uid:1", &role(Some("admin"), false)),
        Err(DenyReason::NoRule)
    );
    assert_eq!(
        ask(&set, "unix:uid:2", &role(None, false)),
        Err(DenyReason::NoWorkload)
    );
    // The instance's own identity is no role of that name.
    assert_eq!(
        ask(&set, "unix:uid:1", &role(Some("ec2-instance"), false)),
        Err(DenyReason::NoRule)
    );
    let set = policy(&workload("w", "unix:uid:1", &[("instance", "")]));
    let own = "identity-credentials/ec2/security-credentials/ec2-instance";
    assert_eq!(
        ask(&set, "unix:uid:1", &role(Some(own), false)),
        Ok(own.into())
    );
    assert_eq!(
        ask(&set, "unix:uid:1", &role(Some("ec2-instance"), false)),
        Err(DenyReason::NoRule)
    );
}

#[test]
fn a_caller_that_is_two_workloads_with_two_roles_has_none_of_its_own() {
    let both = [
        workload("v", "unix:uid:1", &[("a", "")]),
        workload("w", "unix:gid:1", &[("b", "")]),
    ];
    let set = policy(&both.concat());
    let who = "unix:uid:1 unix:gid:1";
    assert_eq!(
        ask(&set, who, &role(None, false)),
        Err(DenyReason::AmbiguousWorkload)
    );
    assert_eq!(
        ask(&set, who, &role(Some("role-b"), false)),
        Ok("role-b".into())
    );
    assert_eq!(
        ask(&set, "unix:uid:1", &role(None, false)),
        Ok("role-a".into())
    );
}

#[test]
fn a_deny_of_a_role_reaches_who_does_not_name_it() {
    let grants = workload("w", "unix:uid:1", &[("a", ""), ("b", "")]);
    for denied in ["role-a", "arn:aws:iam::123456789012:role/role-a"] {
        let deny = format!("[[deny]]\ntoken = {{ cloud = \"aws\", role = [\"{denied}\"] }}\n");
        let set = policy(&format!("{grants}{deny}"));
        for request in [role(None, false), role(Some("role-a"), false)] {
            assert_eq!(
                ask(&set, "unix:uid:1", &request),
                Err(DenyReason::DenyRule),
                "{denied}"
            );
        }
        assert_eq!(
            ask(&set, "unix:uid:1", &role(Some("role-b"), false)),
            Ok("role-b".into())
        );
    }
    let set = policy(&format!(
        "{grants}[[deny]]\ntoken = {{ cloud = \"aws\" }}\n"
    ));
    for request in [role(None, false), role(Some("role-b"), false)] {
        assert_eq!(ask(&set, "unix:uid:1", &request), Err(DenyReason::DenyRule));
    }
}

#[test]
fn without_a_session_only_a_rule_that_says_so_covers_it() {
    let read_rule = "[[workload.allow]]\nread = [\"aws:/latest/meta-data/**\"]\n";
    let legacy_rule =
        format!("[[workload.allow]]\nread = [\"aws:/latest/meta-data/placement/**\"]\n{LEGACY}");
    let set = policy(&format!(
        "{}{read_rule}{legacy_rule}",
        workload("w", "unix:uid:1", &[("a", ""), ("b", LEGACY)])
    ));
    let ask = |request: &Request| super_ask(&set, request);
    assert_eq!(
        ask(&read("/latest/meta-data/hostname", false)),
        Ok(String::new())
    );
    assert_eq!(
        ask(&read("/latest/meta-data/hostname", true)),
        Err(DenyReason::Imdsv1)
    );
    assert_eq!(
        ask(&read("/latest/meta-data/placement/region", true)),
        Ok(String::new())
    );
    assert_eq!(
        ask(&read("/latest/user-data", true)),
        Err(DenyReason::NoRule)
    );
    assert_eq!(ask(&role(Some("role-a"), true)), Err(DenyReason::Imdsv1));
    assert_eq!(ask(&role(Some("role-b"), true)), Ok("role-b".into()));
    assert_eq!(ask(&role(None, false)), Ok("role-a".into()));
    assert_eq!(
        ask(&role(None, true)),
        Ok("role-b".into()),
        "the first that it may have so"
    );
}

fn super_ask(set: &PolicySet, request: &Request) -> Result<String, DenyReason> {
    ask(set, "unix:uid:1", request)
}

#[test]
fn in_audit_it_passes_and_is_told() {
    let set = policy(&workload("w", "unix:uid:1", &[("a", "")]));
    let caller = set.identify(&Selectors::parse("unix:uid:1").unwrap());
    let Decision::Allow(permit) =
        set.decide_at(Mode::Audit, &caller, &role(Some("role-a"), true), 0)
    else {
        panic!("audit mode refuses nothing by default");
    };
    assert_eq!(
        permit.would_deny().map(|denial| denial.reason),
        Some(DenyReason::Imdsv1)
    );
    assert_eq!(permit.grant(), &Grant::Forward { identity: None });
}
