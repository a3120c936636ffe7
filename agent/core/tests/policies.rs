//! The eight policies that the language has to say well, each compiled and asked.

use imds_guard_core::decision::{Decision, DenyReason, Grant, Permit};
use imds_guard_core::policy::{Compiled, Mode, PolicySet, Source, compile};
use imds_guard_core::request::{AzureIdentity, Cloud, CredentialAsk, Request};
use imds_guard_core::selector::Selectors;

/// 2026-11-21
const NOW: i64 = 1_795_219_200;

#[expect(
    clippy::panic,
    reason = "a fixture that does otherwise fails the test that calls this"
)]
fn fixture(name: &str, text: &str) -> Compiled {
    let source = Source {
        name: name.into(),
        text: text.into(),
    };
    compile(&[source], "web-07", NOW).unwrap_or_else(|e| panic!("{e}"))
}

macro_rules! fixture {
    ($name:literal) => {
        fixture($name, include_str!(concat!("../../docs/policy/", $name)))
    };
}

#[expect(
    clippy::unwrap_used,
    reason = "the selectors are literals of the tests"
)]
fn ask(policy: &PolicySet, caller: &str, request: &Request) -> Decision {
    let caller = Selectors::parse(caller).unwrap();
    policy.decide(&policy.identify(&caller), request, NOW)
}

#[expect(
    clippy::panic,
    reason = "a fixture that does otherwise fails the test that calls this"
)]
fn permit(policy: &PolicySet, caller: &str, request: &Request) -> Permit {
    match ask(policy, caller, request) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("{caller}: {denial:?}"),
    }
}

fn allowed(policy: &PolicySet, caller: &str, request: &Request) {
    let _permit = permit(policy, caller, request);
}

#[expect(
    clippy::panic,
    reason = "a fixture that does otherwise fails the test that calls this"
)]
fn refused(policy: &PolicySet, caller: &str, request: &Request) -> DenyReason {
    match ask(policy, caller, request) {
        Decision::Allow(permit) => panic!("{caller}: {permit:?}"),
        Decision::Deny(denial) => denial.reason,
    }
}

fn azure(resource: &str) -> Request {
    azure_as(resource, None)
}

fn azure_as(resource: &str, selector: Option<AzureIdentity>) -> Request {
    Request::Credential(CredentialAsk::AzureToken {
        resource: resource.into(),
        selector,
    })
}

fn read(cloud: Cloud, path: &str, subtree: bool) -> Request {
    Request::Read {
        cloud,
        path: path.into(),
        subtree,
        imdsv1: false,
    }
}

#[test]
fn platform_agents_by_preset() {
    let compiled = fixture!("1-platform.toml");
    let boot = "unix:uid:0 systemd:id:cloud-init.service";
    let azure = read(Cloud::Azure, "/metadata/instance", true);
    let aws = read(Cloud::Aws, "/latest/user-data", false);
    let gcp = read(Cloud::Gcp, "/computeMetadata/v1", true);
    allowed(&compiled.policy, boot, &azure);
    allowed(&compiled.policy, boot, &aws);
    let agent = "unix:uid:0 systemd:id:google-guest-agent.service";
    allowed(&compiled.policy, agent, &gcp);
    let waagent = "unix:uid:0 systemd:id:walinuxagent.service";
    let goal = read(Cloud::Azure, "/machine", false);
    allowed(&compiled.policy, waagent, &goal);
    let status = |path: &str| Request::Write {
        cloud: Cloud::Azure,
        path: path.into(),
    };
    allowed(&compiled.policy, waagent, &status("/status"));
    assert_eq!(
        refused(&compiled.policy, waagent, &status("/vmSettings")),
        DenyReason::NoRule
    );
    let ssm = "unix:uid:0 systemd:id:amazon-ssm-agent.service";
    let place = "/latest/meta-data/placement/region";
    allowed(&compiled.policy, ssm, &read(Cloud::Aws, place, false));
    assert_eq!(refused(&compiled.policy, ssm, &aws), DenyReason::NoRule);
    let hotplug = "unix:uid:0 systemd:id:cloud-init-hotplugd.service";
    let id = read(Cloud::Gcp, "/computeMetadata/v1/instance/id", false);
    for cloud in [&azure, &aws, &id] {
        allowed(&compiled.policy, hotplug, cloud);
    }
    let routes = r"unix:uid:0 systemd:id:policy-routes@ens5.service systemd:slice:system-policy\x2droutes.slice";
    let mac = read(Cloud::Aws, "/latest/meta-data/mac", false);
    allowed(&compiled.policy, routes, &mac);
    assert_eq!(refused(&compiled.policy, routes, &aws), DenyReason::NoRule);
    let keys = "/latest/meta-data/managed-ssh-keys/active-keys/admin";
    let keys = read(Cloud::Aws, keys, false);
    let connect = "unix:uid:112 unix:user:ec2-instance-connect systemd:id:ssh.service";
    allowed(&compiled.policy, connect, &keys);
    assert_eq!(refused(&compiled.policy, connect, &mac), DenyReason::NoRule);
    let users = read(Cloud::Gcp, "/computeMetadata/v1/oslogin/users", false);
    let sshd = "unix:uid:0 systemd:id:ssh.service";
    allowed(&compiled.policy, sshd, &users);
    assert_eq!(refused(&compiled.policy, sshd, &gcp), DenyReason::NoRule);
    let other = "unix:uid:1000 systemd:id:cloud-init.service";
    assert_eq!(
        refused(&compiled.policy, other, &azure),
        DenyReason::NoWorkload
    );
    let mode = |name: &str| {
        let mut endpoints = compiled.settings.endpoints.iter();
        endpoints.find(|e| &*e.name == name).unwrap().mode
    };
    assert_eq!(mode("azure-imds"), Mode::Enforce);
    assert_eq!(mode("azure-wireserver"), Mode::Observe);
    assert_eq!(mode("azure-hostga"), Mode::Enforce);
}

#[test]
fn billing_has_one_pinned_identity() {
    let policy = fixture!("2-billing.toml").policy;
    let billing = "systemd:id:billing.service unix:user:billing unix:uid:999";
    for name in [
        "https://vault.azure.net",
        "https://vault.azure.net/",
        "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
        "api://ledger",
        "99999999-8888-7777-6666-555555555555",
    ] {
        let permit = permit(&policy, billing, &azure(name));
        let Grant::Forward {
            identity: Some(identity),
        } = permit.grant()
        else {
            panic!("{permit:?}");
        };
        assert_eq!(&*identity.name, "billing");
        assert_eq!(&*permit.rule().name, "billing-vault");
    }
    let own = AzureIdentity::ClientId("11111111-2222-3333-4444-555555555555".into());
    allowed(
        &policy,
        billing,
        &azure_as("https://vault.azure.net", Some(own)),
    );
    let other = AzureIdentity::ClientId("00000000-2222-3333-4444-555555555555".into());
    let other = azure_as("https://vault.azure.net", Some(other));
    assert_eq!(refused(&policy, billing, &other), DenyReason::OtherIdentity);
    let unnamed = AzureIdentity::ObjectId("11111111-2222-3333-4444-555555555555".into());
    let unnamed = azure_as("https://vault.azure.net", Some(unnamed));
    assert_eq!(
        refused(&policy, billing, &unnamed),
        DenyReason::OtherIdentity
    );
    let arm = azure("https://management.azure.com/");
    assert_eq!(refused(&policy, billing, &arm), DenyReason::NoRule);
    let neighbour = "systemd:id:billing.service unix:user:other";
    let vault = azure("https://vault.azure.net");
    assert_eq!(refused(&policy, neighbour, &vault), DenyReason::NoWorkload);
}

#[test]
fn batch_has_a_role_of_its_own() {
    let compiled = fixture!("3-batch.toml");
    assert_eq!(compiled.warnings.to_string(), "");
    let batch = "systemd:id:batch.service";
    let role = |role: &str| {
        Request::Credential(CredentialAsk::AwsRole {
            role: Some(role.into()),
            imdsv1: false,
        })
    };
    let permit = permit(&compiled.policy, batch, &role("batch"));
    let Grant::Assume {
        identity,
        target,
        session,
    } = permit.grant()
    else {
        panic!("{permit:?}");
    };
    assert_eq!(&**target, "arn:aws:iam::123456789012:role/batch");
    assert_eq!(&**session, "batch@web-07");
    assert_eq!(
        identity.session_policy.as_deref(),
        Some(
            r#"{"Statement":[{"Action":["s3:GetObject"],"Effect":"Allow","Resource":["arn:aws:s3:::batch-input/*"]}],"Version":"2012-10-17"}"#
        )
    );
    assert_eq!(identity.tags.len(), 2);
    assert_eq!(
        refused(&compiled.policy, batch, &role("node")),
        DenyReason::NoRule
    );
}

#[test]
fn build_has_two_scopes_and_one_audience() {
    let policy = fixture!("4-build.toml").policy;
    let build = "systemd:id:build-runner.service unix:user:build";
    let token = |scopes: &[&str]| {
        Request::Credential(CredentialAsk::GcpToken {
            account: "default".into(),
            scopes: scopes.iter().map(|s| (*s).into()).collect(),
        })
    };
    let storage = "https://www.googleapis.com/auth/devstorage.read_only";
    allowed(&policy, build, &token(&[storage]));
    let more = token(&[storage, "https://www.googleapis.com/auth/cloud-platform"]);
    assert_eq!(refused(&policy, build, &more), DenyReason::NoRule);
    // Who names no scopes gets those of its rule, and the real server is asked for no more.
    let logging = "https://www.googleapis.com/auth/logging.write";
    let own = permit(&policy, build, &token(&[]));
    let scopes = own
        .scopes()
        .map(|s| s.iter().map(|s| &**s).collect::<Vec<_>>());
    assert_eq!(scopes, Some(vec![storage, logging]));
    assert_eq!(permit(&policy, build, &token(&[storage])).scopes(), None);
    let id = |account: &str, audience: &str| {
        Request::Credential(CredentialAsk::GcpIdentity {
            account: account.into(),
            audience: audience.into(),
        })
    };
    let registry = "https://registry.example.org";
    allowed(&policy, build, &id("default", registry));
    assert_eq!(
        refused(&policy, build, &id("default", "https://x")),
        DenyReason::NoRule
    );
    let other = id("other@example-project.iam.gserviceaccount.com", registry);
    assert_eq!(refused(&policy, build, &other), DenyReason::OtherIdentity);
}

#[test]
fn everyone_reads_region_and_nobody_user_data() {
    let policy = fixture!("5-everyone.toml").policy;
    let azure = |path: &str, subtree| read(Cloud::Azure, path, subtree);
    let anyone = "cgroup:path:/user.slice/x unix:uid:4242";
    allowed(
        &policy,
        anyone,
        &azure("/metadata/instance/compute/location", false),
    );
    allowed(
        &policy,
        anyone,
        &azure("/metadata/instance/compute/tagsList", true),
    );
    let compute = azure("/metadata/instance/compute", true);
    assert_eq!(
        refused(
            &policy,
            anyone,
            &azure("/metadata/instance/compute/name", false)
        ),
        DenyReason::NoRule
    );
    let inventory = "cgroup:path:/system.slice/i systemd:id:inventory.service";
    allowed(
        &policy,
        inventory,
        &azure("/metadata/instance/network", true),
    );
    allowed(
        &policy,
        inventory,
        &azure("/metadata/instance/compute/name", false),
    );
    for parent in [
        compute,
        azure("/metadata/instance", true),
        azure("/metadata/instance/compute/userData", false),
        azure("/metadata/instance/compute/USERDATA", false),
    ] {
        assert_eq!(
            refused(&policy, inventory, &parent),
            DenyReason::DenyRule,
            "{parent:?}"
        );
    }
}

#[test]
fn nobody_gets_arm_or_graph_but_the_deployer() {
    let policy = fixture!("6-no-arm.toml").policy;
    let deployer = "systemd:id:deployer.service unix:uid:0 unix:user:root";
    allowed(&policy, deployer, &azure("https://management.azure.com"));
    let sloppy = "unix:user:sloppy unix:uid:7";
    for arm in [
        "https://management.azure.com/",
        "https://management.core.windows.net/",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013",
        "https://MANAGEMENT.azure.com//",
    ] {
        assert_eq!(
            refused(&policy, sloppy, &azure(arm)),
            DenyReason::DenyRule,
            "{arm}"
        );
    }
    let vault = permit(&policy, sloppy, &azure("https://vault.azure.net"));
    let would = vault.would_deny().unwrap();
    assert_eq!(&*would.rule.as_ref().unwrap().name, "no-vault-soon");
    let vault = permit(&policy, deployer, &azure("https://vault.azure.net"));
    assert_eq!(vault.would_deny(), None);
}

#[test]
fn namespaces_by_template() {
    let compiled = fixture!("7-namespaces.toml");
    assert!(
        compiled
            .warnings
            .to_string()
            .contains("nothing attests `k8s:ns`")
    );
    let vault = azure("https://vault.azure.net");
    for n in [1, 400] {
        let caller = format!("k8s:ns:team-{n} k8s:sa:web");
        let permit = permit(&compiled.policy, &caller, &vault);
        let Grant::Mint {
            subject, audience, ..
        } = permit.grant()
        else {
            panic!("{permit:?}");
        };
        let expected = format!("spiffe://example.org/cluster/prod-1/ns/team-{n}/sa/web");
        assert_eq!(**subject, *expected);
        assert_eq!(&**audience, "https://vault.azure.net");
    }
    assert_eq!(
        refused(&compiled.policy, "k8s:ns:team-1", &vault),
        DenyReason::NoWorkload
    );
}

#[test]
fn legacy_until_a_date() {
    let policy = fixture!("8-legacy.toml").policy;
    let legacy = Selectors::parse("systemd:id:legacy-worker.service unix:user:legacy").unwrap();
    let workload = policy.identify(&legacy);
    let role = Request::Credential(CredentialAsk::AwsRole {
        role: Some("legacy-app".into()),
        imdsv1: true,
    });
    let Decision::Allow(permit) = policy.decide(&workload, &role, NOW) else {
        panic!();
    };
    let limit = permit.limit().unwrap();
    assert_eq!((limit.count, limit.per_seconds), (5, 1));
    // 2027-07-01T00:00:00Z
    let end = 1_814_400_000;
    assert!(matches!(
        policy.decide(&workload, &role, end - 1),
        Decision::Allow(_)
    ));
    let Decision::Deny(denial) = policy.decide(&workload, &role, end) else {
        panic!();
    };
    assert_eq!(denial.reason, DenyReason::Expired);
}

#[test]
fn every_block_of_the_manual_compiles() {
    let manual = include_str!("../../docs/policy.md");
    let blocks: Vec<&str> = manual
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 7);
    for block in blocks {
        let compiled = fixture("policy.md", block);
        assert_eq!(compiled.warnings.to_string(), "");
    }
}

#[test]
fn all_errors_come_at_once_with_their_remedies() {
    let text = r#"
[host]
trustdomain = "x"
[[workload]]
name = "a"
selectors = []
[[workload.allow]]
tokn = { cloud = "azure" }
read = ["azure:/metadata//instance/"]
[[workload.allow]]
token = { cloud = "azure" }
[[workload]]
name = "a"
selectors = ["unix:path:/usr/bin/x"]
[[deny]]
read = ["azure:/a"]
except = ["b"]
"#;
    let source = Source {
        name: "bad.toml".into(),
        text: text.into(),
    };
    let told = compile(&[source], "h", NOW).unwrap_err().to_string();
    for expected in [
        "did you mean `trust_domain`?",
        "workload `a`: `selectors` is empty",
        "did you mean `token`?",
        "write `azure:/metadata/instance`",
        "gives a token, and names no identity",
        "gives a token for anything",
        "a second workload called `a`",
        "rests only on what the caller can choose",
        "there is no workload `b`",
        "bad.toml:3:1",
    ] {
        assert!(told.contains(expected), "no {expected:?} in\n{told}");
    }
}

/// Two clouds at one address: the kernel guards it as the strictest of them, and so does `decide`.
#[test]
fn the_mode_of_an_address_is_the_strictest_of_those_who_share_it() {
    let text = r#"
[endpoints]
azure-imds = "audit"
aws-imds = "enforce"

[[workload]]
name = "w"
selectors = ["unix:uid:1", "systemd:id:w.service"]

[[workload.allow]]
read = ["azure:/metadata/versions"]
"#;
    let set = |text: &str| fixture("modes.toml", text).policy;
    let request = Request::Read {
        cloud: Cloud::Azure,
        path: "/metadata/instance".into(),
        subtree: true,
        imdsv1: false,
    };
    let nobody = |set: &PolicySet| set.decide(&set.identify(&Selectors::default()), &request, NOW);
    assert!(matches!(nobody(&set(text)), Decision::Deny(_)));
    // The positive twin: in audit alone, what no rule grants is let through and recorded.
    let audit = set(&text.replace("aws-imds = \"enforce\"", "aws-imds = \"observe\""));
    assert!(matches!(nobody(&audit), Decision::Allow(p) if p.would_deny().is_some()));
}

/// Three clouds' credentials on a host that is in none, for one workload and for nobody else.
#[test]
fn billing_gets_what_three_clouds_give_for_an_assertion() {
    let compiled = fixture!("10-federation.toml");
    assert_eq!(compiled.warnings.to_string(), "");
    let who = "systemd:id:billing.service";
    for request in [
        azure("https://vault.azure.net"),
        Request::Credential(CredentialAsk::AwsRole {
            role: None,
            imdsv1: false,
        }),
        Request::Credential(CredentialAsk::GcpToken {
            account: "default".into(),
            scopes: vec![],
        }),
    ] {
        let permit = permit(&compiled.policy, who, &request);
        assert!(
            matches!(permit.grant(), Grant::Federate { subject: Some(subject), .. }
                if **subject == *"spiffe://example.org/host/web-07/workload/billing")
        );
        refused(&compiled.policy, "systemd:id:web.service", &request);
    }
}

/// Guests by their ids, beside the host's own processes, which have none.
#[test]
fn guests_are_told_apart_by_their_interfaces() {
    let compiled = fixture!("9-guests.toml");
    let (policy, guests) = (&compiled.policy, &compiled.settings.guests);
    assert_eq!(compiled.warnings.to_string(), "");
    let known: Vec<_> = guests
        .iter()
        .map(|g| (&*g.interface, g.id.as_deref()))
        .collect();
    assert_eq!(
        known,
        [
            ("tap-build", Some("build-runner")),
            ("vnet0", Some("shop")),
            ("vnet1", Some("mail"))
        ]
    );
    let vault = azure("https://vault.azure.net");
    for guest in ["shop", "mail"] {
        let permit = permit(policy, &format!("vm:id:{guest} net:ifname:vnet7"), &vault);
        assert!(
            matches!(permit.grant(), Grant::Mint { subject, .. } if **subject == *format!("spiffe://example.org/host/hypervisor-3/vm/{guest}"))
        );
    }
    assert_eq!(
        refused(policy, "unix:uid:0 net:host", &vault),
        DenyReason::NoWorkload
    );
    let location = read(Cloud::Azure, "/metadata/instance/compute/location", false);
    allowed(policy, "vm:id:build-runner net:ifname:tap-build", &location);
    refused(policy, "vm:id:build-runner net:ifname:vnet0", &location);
    refused(policy, "vm:id:shop net:ifname:vnet0", &location);
}
