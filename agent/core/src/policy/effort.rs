//! Counts the rules that are looked at while a test holds it to [`super::PolicySet::identify`] and `decide`: that their cost
//! doesn't grow with rules that can't match is a property of the indexes, not of a clock. Outside tests it is nothing.

#[cfg(test)]
thread_local! {
    static RULES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// One rule, or one alternative of a workload's selectors, is looked at.
#[inline]
pub(super) fn one() {
    #[cfg(test)]
    RULES.set(RULES.get() + 1);
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::RULES;
    use crate::decision::Decision;
    use crate::policy::{PolicySet, Source, compile};
    use crate::request::{Cloud, CredentialAsk, Request};
    use crate::selector::Selectors;

    const OURS: &str = r#"
[identity.x]
cloud = "azure"
source = "forward"
[identity.g]
cloud = "gcp"
source = "forward"
[[workload]]
name = "ours"
selectors = ["systemd:id:ours.service", "unix:user:ours"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "x"
[[workload.allow]]
token = { cloud = "gcp", scopes = ["s"], audience = ["a"] }
identity = "g"
[[workload.allow]]
read = ["azure:/metadata/instance/compute/**"]
[[workload]]
name = "slice"
selectors = ["cgroup:path:/system.slice/**"]
[[workload.allow]]
read = ["azure:/metadata/instance/network/**"]
[[deny]]
token = { cloud = "azure" }
except = ["ours"]
"#;

    /// Rules of every kind that can't match our caller or what it asks for.
    fn others(text: &mut String, n: usize) {
        let _infallible = writeln!(
            text,
            r#"
[[workload]]
name = "w{n}"
selectors = ["systemd:id:w{n}.service", "unix:user:ours"]
[[workload.allow]]
read = ["azure:/**"]
[[workload]]
name = "c{n}"
selectors = ["cgroup:path:/w{n}.slice/**"]
[[workload.allow]]
read = ["azure:/**"]
[[deny]]
selectors = ["systemd:id:w{n}.service"]
read = ["azure:/**"]
token = {{ cloud = "azure" }}
[[deny]]
read = ["azure:/metadata/instance/secret{n}/**", "azure:/metadata/*/secret{n}"]
token = {{ cloud = "azure", resource = ["api://{n}"] }}
[[deny]]
token = {{ cloud = "gcp", scopes = ["s{n}"], audience = ["a{n}"] }}"#
        );
    }

    fn set(others_of_each: usize) -> PolicySet {
        let mut text = OURS.to_owned();
        (0..others_of_each).for_each(|n| others(&mut text, n));
        let source = Source {
            name: "t".into(),
            text: text.into(),
        };
        compile(&[source], "h", 0).unwrap().policy
    }

    fn requests() -> Vec<(Request, bool)> {
        let credential = |ask| Request::Credential(ask);
        let azure = |resource: &str| {
            credential(CredentialAsk::AzureToken {
                resource: resource.into(),
                selector: None,
            })
        };
        let read = |path: &str, subtree| Request::Read {
            cloud: Cloud::Azure,
            path: path.into(),
            subtree,
            imdsv1: false,
        };
        let scope = credential(CredentialAsk::GcpToken {
            account: "default".into(),
            scopes: vec!["s".into()],
        });
        let audience = credential(CredentialAsk::GcpIdentity {
            account: "default".into(),
            audience: "a".into(),
        });
        vec![
            (azure("https://vault.azure.net"), true),
            (azure("api://none"), false),
            (read("/metadata/instance/compute", true), true),
            (read("/metadata/instance/network/interface", true), true),
            (read("/metadata/instance/other", true), false),
            (scope, true),
            (audience, true),
        ]
    }

    /// How many rules were looked at: by identify, then by each decide.
    fn looked_at(set: &PolicySet) -> Vec<u64> {
        let caller = "unix:uid:7 unix:user:ours systemd:id:ours.service cgroup:path:/system.slice/ours.service";
        let caller = Selectors::parse(caller).unwrap();
        RULES.set(0);
        let workload = set.identify(&caller);
        let mut counts = vec![RULES.take()];
        for (request, allowed) in requests() {
            let decision = set.decide(&workload, &request, 0);
            assert_eq!(
                matches!(decision, Decision::Allow(_)),
                allowed,
                "{request:?}"
            );
            counts.push(RULES.take());
        }
        counts
    }

    #[test]
    fn rules_that_cannot_match_are_not_looked_at() {
        let few = looked_at(&set(2));
        assert_eq!(few, looked_at(&set(2000)));
        assert!(few.iter().sum::<u64>() > 8, "{few:?}: is anything counted?");
        assert!(few.iter().all(|count| *count <= 8), "{few:?}");
    }
}
