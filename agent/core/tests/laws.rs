//! The laws of policy, over generated policies, callers and requests.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "generators stand outside the test functions that the lints spare"
)]

use imds_guard_core::decision::{Decision, Grant};
use imds_guard_core::policy::{Mode, PolicySet, Source, compile};
use imds_guard_core::request::{AzureIdentity, Cloud, CredentialAsk, Request};
use imds_guard_core::selector::{Key, Selectors};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const SELECTORS: [&str; 5] = [
    "unix:uid:1",
    "unix:user:a",
    "unix:gid:2",
    "systemd:id:x.service",
    "cgroup:path:/s/**",
];
const RESOURCES: [&str; 3] = [
    "https://vault.azure.net",
    "https://management.azure.com",
    "api://x",
];
const PATHS: [&str; 5] = ["/a", "/a/**", "/a/b", "/a/*/c", "/**"];
const HEAD: &str = "[identity.i]\ncloud=\"azure\"\nsource=\"forward\"\n[identity.j]\ncloud=\"azure\"\nsource=\"forward\"\nclient_id=\"c\"\n";

/// Identities whose credentials don't come from the real service as they are.
const MADE: &str = r#"
[host]
trust_domain = "example.org"
[issuer]
url = "https://idp.example.org"
[identity.mint]
cloud = "azure"
source = "mint"
client_id = "own"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
[identity.federate]
cloud = "azure"
source = "federate"
client_id = "own"
tenant_id = "t"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}/federated"
"#;

fn about() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&RESOURCES[..])
            .prop_map(|r| format!("token={{cloud=\"azure\",resource=[\"{r}\"]}}")),
        select(&PATHS[..]).prop_map(|p| format!("read=[\"azure:{p}\"]")),
    ]
}

fn selectors() -> impl Strategy<Value = String> {
    subsequence(&SELECTORS[..], 1..4).prop_map(|s| format!("selectors={s:?}"))
}

fn workloads() -> impl Strategy<Value = Vec<String>> {
    let one = (selectors(), about(), select(&["i", "j"][..]));
    proptest::collection::vec(one, 1..4).prop_map(|all| {
        let text = |(n, (selectors, about, identity)): (usize, (String, String, &str))| {
            let identity = if about.starts_with("token") {
                format!("identity=\"{identity}\"")
            } else {
                String::new()
            };
            format!("[[workload]]\nname=\"w{n}\"\n{selectors}\n[[workload.allow]]\n{about}\n{identity}\n")
        };
        all.into_iter().enumerate().map(text).collect()
    })
}

fn deny() -> impl Strategy<Value = String> {
    let who = proptest::option::of(selectors());
    (who, about(), any::<bool>(), any::<bool>()).prop_map(|(who, about, except, audit)| {
        let except = if except { "except=[\"w0\"]" } else { "" };
        let audit = if audit { "mode=\"audit\"" } else { "" };
        format!(
            "[[deny]]\n{}\n{about}\n{except}\n{audit}\n",
            who.unwrap_or_default()
        )
    })
}

fn caller() -> impl Strategy<Value = Selectors> {
    let all = [
        "unix:uid:1",
        "unix:user:a",
        "unix:gid:2",
        "systemd:id:x.service",
        "cgroup:path:/s/t",
    ];
    subsequence(all.to_vec(), 0..=5).prop_map(|s| Selectors::parse(&s.join(" ")).unwrap())
}

fn request() -> impl Strategy<Value = Request> {
    let path = select(&["/a", "/a/b", "/a/b/c", "/z"][..]);
    prop_oneof![
        select(&RESOURCES[..]).prop_map(|r| {
            Request::Credential(CredentialAsk::AzureToken {
                resource: r.into(),
                selector: None,
            })
        }),
        (path, any::<bool>()).prop_map(|(path, subtree)| Request::Read {
            cloud: Cloud::Azure,
            path: path.into(),
            subtree,
            imdsv1: false,
        }),
    ]
}

fn set(sources: &[String]) -> PolicySet {
    let source = |(n, text): (usize, &String)| Source {
        name: format!("{n}.toml").into(),
        text: text.as_str().into(),
    };
    let sources: Vec<Source> = sources.iter().enumerate().map(source).collect();
    compile(&sources, "h", 0)
        .unwrap_or_else(|e| panic!("{e}"))
        .policy
}

fn ask(set: &PolicySet, mode: Mode, caller: &Selectors, request: &Request) -> Decision {
    set.decide_at(mode, &set.identify(caller), request, 0)
}

fn allowed(decision: &Decision) -> bool {
    matches!(decision, Decision::Allow(_))
}

proptest! {
    #[test]
    fn adding_a_deny_never_allows_more(w in workloads(), d in deny(), c in caller(), r in request()) {
        let before = format!("{HEAD}{}", w.concat());
        let after = format!("{before}{d}");
        for mode in [Mode::Audit, Mode::Enforce] {
            let more = allowed(&ask(&set(std::slice::from_ref(&after)), mode, &c, &r));
            prop_assert!(!more || allowed(&ask(&set(std::slice::from_ref(&before)), mode, &c, &r)));
        }
    }

    #[test]
    fn evidence_that_is_unavailable_never_allows_more(w in workloads(), d in deny(), c in caller(), r in request(), key in select(Key::all().collect::<Vec<_>>())) {
        let set = set(&[format!("{HEAD}{}{d}", w.concat())]);
        let mut less = c.clone();
        less.unavailable(key, "attestor failed");
        let more = allowed(&ask(&set, Mode::Enforce, &less, &r));
        prop_assert!(!more || allowed(&ask(&set, Mode::Enforce, &c, &r)));
    }

    // A deny may name what a caller has, and two workloads may contradict each other: losing that is not losing permission,
    // so this law is about one workload and denies that hold for everyone.
    #[test]
    fn evidence_that_is_gone_never_allows_more(w in workloads(), a in about(), c in caller(), r in request(), key in select(Key::all().collect::<Vec<_>>())) {
        let set = set(&[format!("{HEAD}{}[[deny]]\n{a}\nexcept=[\"w0\"]\n", w[0])]);
        let mut less = c.clone();
        less.0.remove(&key);
        let more = allowed(&ask(&set, Mode::Enforce, &less, &r));
        prop_assert!(!more || allowed(&ask(&set, Mode::Enforce, &c, &r)));
    }

    #[test]
    fn order_of_files_does_not_matter(w in workloads(), d in deny(), c in caller(), r in request()) {
        let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
        let mut files: Vec<Source> = w.iter().enumerate().map(|(n, t)| source(&format!("{n}"), t)).collect();
        files.push(source("deny", &d));
        let decide = |files: &[Source]| {
            let all: Vec<Source> = std::iter::once(source("main", HEAD)).chain(files.iter().cloned()).collect();
            compile(&all, "h", 0).map(|compiled| ask(&compiled.policy, Mode::Enforce, &c, &r))
        };
        let forth = decide(&files).map_err(|e| e.to_string());
        files.reverse();
        prop_assert_eq!(forth, decide(&files).map_err(|e| e.to_string()));
    }

    #[test]
    fn printed_and_parsed_it_is_the_same(w in workloads(), d in deny(), c in caller(), r in request()) {
        let first = set(&[format!("{HEAD}{}{d}", w.concat())]);
        let printed = first.to_toml().unwrap();
        let second = set(std::slice::from_ref(&printed));
        prop_assert_eq!(&second.to_toml().unwrap(), &printed);
        let grant = |set: &PolicySet| match ask(set, Mode::Enforce, &c, &r) {
            Decision::Allow(permit) => Ok((permit.workload().clone(), permit.grant().clone())),
            Decision::Deny(denial) => Err((denial.reason, denial.workloads)),
        };
        prop_assert_eq!(grant(&first), grant(&second));
    }

    #[test]
    fn audit_mode_adds_forwards_alone(w in workloads(), d in deny(), c in caller(), r in request()) {
        let set = set(&[format!("{HEAD}{}{d}", w.concat())]);
        if let (Decision::Deny(_), Decision::Allow(permit)) =
            (ask(&set, Mode::Enforce, &c, &r), ask(&set, Mode::Audit, &c, &r)) {
            prop_assert_eq!(permit.grant(), &Grant::Forward { identity: None });
            prop_assert!(permit.would_deny().is_some());
        }
    }

    // Forward is what audit mode may fall back to, and never for a credential that a rule makes: neither for another identity
    // than the rule's, nor beside another workload's rule.
    #[test]
    fn audit_mode_enforces_rules_that_make_credentials(
        made in select(&["mint", "federate"][..]),
        who in selectors(),
        resource in select(&RESOURCES[..]),
        asked in proptest::option::of(select(&["own", "other"][..])),
        others in proptest::option::of(workloads()),
        d in deny(),
        with_deny in any::<bool>(),
    ) {
        let own = format!("[[workload]]\nname=\"w0\"\n{who}\n[[workload.allow]]\ntoken={{cloud=\"azure\",resource=[\"{resource}\"]}}\nidentity=\"{made}\"\n");
        let others = others.map(|w| w.concat().replace("name=\"w", "name=\"other")).unwrap_or_default();
        let deny = if with_deny { d } else { String::new() };
        let set = set(&[format!("{MADE}{HEAD}{own}{others}{deny}")]);
        let everything = Selectors::parse("unix:uid:1 unix:user:a unix:gid:2 systemd:id:x.service cgroup:path:/s/t").unwrap();
        let request = Request::Credential(CredentialAsk::AzureToken {
            resource: resource.into(),
            selector: asked.map(|id| AzureIdentity::ClientId(id.into())),
        });
        let enforced = ask(&set, Mode::Enforce, &everything, &request);
        if let Decision::Allow(permit) = &enforced {
            let as_said = match permit.grant() {
                Grant::Mint { .. } => made == "mint",
                Grant::Federate { .. } => made == "federate",
                _ => false,
            };
            prop_assert!(as_said && asked != Some("other"));
        }
        prop_assert_eq!(ask(&set, Mode::Audit, &everything, &request), enforced);
    }
}
