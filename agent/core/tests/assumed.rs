//! Identities with `source = "assume"`: which role under which name, which account for what, and that nobody gets the node's
//! own in their place.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may end with a panic, also where its own input is wrong"
)]

use imds_guard_core::decision::{Decision, DenyReason, Grant};
use imds_guard_core::policy::{Mode, PolicySet, Source, compile};
use imds_guard_core::request::{Cloud, CredentialAsk, Request};
use imds_guard_core::selector::Selectors;

fn compiled(host: &str, text: &str) -> PolicySet {
    let source = Source {
        name: "p.toml".into(),
        text: text.into(),
    };
    compile(&[source], host, 0)
        .unwrap_or_else(|e| panic!("{e}"))
        .policy
}

fn aws(rest: &str, workloads: &[(&str, &str)]) -> String {
    let mut text = format!(
        "[identity.batch]\ncloud = \"aws\"\nsource = \"assume\"\nrole = \"arn:aws:iam::123456789012:role/jobs/batch\"\n{rest}\n"
    );
    for (name, who) in workloads {
        text.push_str(&format!(
            "[[workload]]\nname = \"{name}\"\nselectors = [\"{who}\"]\n[[workload.allow]]\ntoken = {{ cloud = \"aws\" }}\nidentity = \"batch\"\n"
        ));
    }
    text
}

fn role(name: Option<&str>) -> Request {
    Request::Credential(CredentialAsk::AwsRole {
        role: name.map(Into::into),
        imdsv1: false,
    })
}

/// Target and session, or why not.
fn ask(
    set: &PolicySet,
    mode: Mode,
    who: &str,
    request: &Request,
) -> Result<(String, String), DenyReason> {
    let caller = set.identify(&Selectors::parse(who).unwrap());
    match set.decide_at(mode, &caller, request, 0) {
        Decision::Allow(permit) => match permit.grant() {
            Grant::Assume {
                target, session, ..
            } => Ok((target.to_string(), session.to_string())),
            other => panic!("{other:?}"),
        },
        Decision::Deny(denial) => Err(denial.reason),
    }
}

fn session(host: &str, rest: &str, name: &str) -> String {
    let set = compiled(host, &aws(rest, &[(name, "unix:uid:1")]));
    ask(&set, Mode::Enforce, "unix:uid:1", &role(None))
        .unwrap()
        .1
}

#[test]
fn a_role_is_assumed_under_the_workloads_name() {
    let set = compiled(
        "web-07",
        &aws("", &[("batch", "unix:uid:1"), ("night", "unix:uid:2")]),
    );
    let arn = "arn:aws:iam::123456789012:role/jobs/batch";
    let is = |who, name, session: &str| {
        let got = ask(&set, Mode::Enforce, who, &role(name));
        assert_eq!(got, Ok((arn.to_owned(), session.to_owned())), "{who}");
    };
    is("unix:uid:1", None, "batch@web-07");
    is("unix:uid:1", Some("batch"), "batch@web-07");
    is("unix:uid:2", None, "night@web-07");
    let refused = |who, name| ask(&set, Mode::Enforce, who, &role(name)).unwrap_err();
    assert_eq!(refused("unix:uid:1", Some("node")), DenyReason::NoRule);
    assert_eq!(refused("unix:uid:3", None), DenyReason::NoWorkload);
}

#[test]
fn session_names_are_of_their_alphabet_and_never_two_workloads_one() {
    assert_eq!(
        session("web-07", "", "a b/c@d=e"),
        "a=20b=2Fc=40d=3De@web-07"
    );
    assert_eq!(
        session("web-07", "session_name = \"{host}+{workload}\"", "x"),
        "web-07+x"
    );
    let long = "ip-10-0-1-23.us-west-2.compute.internal";
    let name = session(long, "", "a-workload-with-a-rather-long-name");
    assert_eq!(name.len(), 64);
    assert!(
        name.starts_with("a-workload-with-a-rather-long-name@ip-10-0-1-23."),
        "{name}"
    );
    // Cut inside an escaped character, it would be another's.
    let name = session(&"é".repeat(40), "", "w");
    assert!(
        name.len() <= 64 && (name.len() - 2).is_multiple_of(6),
        "{name}"
    );
    let two = aws("", &[("a", "unix:uid:1"), ("b", "unix:uid:1")]);
    let set = compiled("h", &two);
    let both = ask(&set, Mode::Enforce, "unix:uid:1", &role(None));
    assert_eq!(both, Err(DenyReason::AmbiguousWorkload));
}

#[test]
fn what_selectors_bind_is_part_of_the_name() {
    let set = compiled("h", &aws("", &[("tenants", "systemd:slice:{tenant}")]));
    let of = |slice: &str| {
        let who = format!("systemd:slice:{slice}");
        ask(&set, Mode::Enforce, &who, &role(None)).map(|(_, session)| session)
    };
    assert_eq!(of("blue"), Ok("tenants,blue@h".to_owned()));
    assert_eq!(of("red"), Ok("tenants,red@h".to_owned()));
    // None that would be another's when it is cut.
    assert_eq!(of(&"x".repeat(64)), Err(DenyReason::NotServed));
}

#[test]
fn where_nothing_is_enforced_nobody_gets_it_nor_the_nodes_own() {
    let set = compiled("h", &aws("", &[("batch", "unix:uid:1")]));
    for name in [None, Some("batch")] {
        let got = ask(&set, Mode::Audit, "unix:uid:1", &role(name));
        assert_eq!(got, Err(DenyReason::NotServed));
    }
}

const GCP: &str = r#"
[identity.build]
cloud = "gcp"
source = "assume"
account = "build@example-project.iam.gserviceaccount.com"

[[workload]]
name = "build"
selectors = ["unix:uid:1"]

[[workload.allow]]
token = { cloud = "gcp", scopes = ["https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/logging.write"] }
identity = "build"

[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry.example.org"] }
identity = "build"
"#;

#[test]
fn an_account_is_acted_as_for_the_rules_scopes_and_audiences() {
    let set = compiled("h", GCP);
    let token = |account: &str, scopes: &[&str]| {
        Request::Credential(CredentialAsk::GcpToken {
            account: account.into(),
            scopes: scopes.iter().map(|s| (*s).into()).collect(),
        })
    };
    let identity = |audience: &str| {
        Request::Credential(CredentialAsk::GcpIdentity {
            account: "default".into(),
            audience: audience.into(),
        })
    };
    let read_only = "https://www.googleapis.com/auth/devstorage.read_only";
    let is = |request: &Request| ask(&set, Mode::Enforce, "unix:uid:1", request);
    assert_eq!(
        is(&token("default", &[read_only])),
        Ok((String::new(), String::new()))
    );
    assert_eq!(
        is(&token("default", &[])),
        Ok((String::new(), String::new()))
    );
    assert_eq!(
        is(&token(
            "default",
            &["https://www.googleapis.com/auth/cloud-platform"]
        )),
        Err(DenyReason::NoRule)
    );
    assert_eq!(
        is(&token(
            "node@example-project.iam.gserviceaccount.com",
            &[read_only]
        )),
        Err(DenyReason::OtherIdentity)
    );
    assert_eq!(
        is(&identity("https://registry.example.org")),
        Ok(("https://registry.example.org".to_owned(), String::new()))
    );
    assert_eq!(
        is(&identity("https://other.example.org")),
        Err(DenyReason::NoRule)
    );
    let audit = ask(
        &set,
        Mode::Audit,
        "unix:uid:1",
        &token("default", &[read_only]),
    );
    assert_eq!(audit, Err(DenyReason::NotServed));
}

#[test]
fn the_account_of_a_caller_is_the_one_that_it_acts_as() {
    let set = compiled("h", GCP);
    let read = |path: &str| Request::Read {
        cloud: Cloud::Gcp,
        path: format!("/computeMetadata/v1/instance/service-accounts/{path}").into(),
        subtree: true,
        imdsv1: false,
    };
    let caller = set.identify(&Selectors::parse("unix:uid:1").unwrap());
    let Decision::Allow(permit) = set.decide_at(Mode::Enforce, &caller, &read("default"), 0) else {
        panic!("refused");
    };
    let Grant::Forward {
        identity: Some(identity),
    } = permit.grant()
    else {
        panic!("{permit:?}");
    };
    assert_eq!(
        identity.account.as_deref(),
        Some("build@example-project.iam.gserviceaccount.com")
    );
    assert_eq!(permit.scopes().map(|scopes| scopes.len()), Some(2));
}
