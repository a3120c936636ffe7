//! A host in no cloud: nothing answers at the metadata address, and no secret of a cloud is on the disk. The unmodified
//! azure-identity, boto3 and google-auth ask where they always ask, and get what their cloud gives for an assertion of the host's
//! own issuer; the clouds have fetched its keys over TLS. The neighbour gets none of it.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

mod faults;
mod files;
mod host;

use host::{Host, SCOPE, VAULT};
use imds_guard_tests::{World, require};

fn world(name: &str) -> World {
    require!(Root, Cgroup2, Bpf, Agent);
    World::new(name).unwrap()
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn azure_identity_gets_a_token_of_entra_that_the_resource_takes() {
    let world = world("federate-azure");
    let host = Host::of(&world, "azure");
    let answer = host.azure(&host.billing());
    assert_eq!(answer["ok"], true, "{answer}\n{}", host.agent.log());
    let token = answer["token"].as_str().unwrap();
    assert_eq!(host.entra.resource_of(token).as_deref(), Some(VAULT));
    // Again, and from a new process: it is kept.
    assert_eq!(host.azure(&host.billing())["token"], token);
    assert_eq!(host.entra.received().len(), 1);
    host.keeps_its_secrets();
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn boto3_gets_the_keys_of_a_role() {
    let world = world("federate-aws");
    let host = Host::of(&world, "aws");
    let answer = host.boto(&host.billing(), &[]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", host.agent.log());
    let given = host.sts.given();
    assert_eq!(given.len(), 1);
    assert_eq!(
        (&answer["key"], &answer["secret"]),
        (
            &given[0].key.clone().into(),
            &given[0].secret.clone().into()
        )
    );
    assert_eq!(given[0].session, "billing");
    assert_eq!(given[0].tags["principal_tags"]["team"][0], "data");
    // In CloudTrail and in our record the keys have one name.
    let exchanges = host.agent.audit().exchanges().unwrap();
    assert!(
        exchanges
            .iter()
            .any(|line| line["credential"]["jti"] == *given[0].key)
    );
    host.keeps_its_secrets();
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn google_auth_gets_a_service_accounts_token() {
    let world = world("federate-gcp");
    let host = Host::of(&world, "gcp");
    let answer = host.google(&host.billing(), "169.254.169.254");
    assert_eq!(answer["ok"], true, "{answer}\n{}", host.agent.log());
    let token = answer["token"].as_str().unwrap();
    let (holder, scopes) = host.google.holder_of(token).unwrap();
    assert_eq!(
        (&*holder, &scopes[..]),
        (host::ACCOUNT, &[SCOPE.to_owned()][..])
    );
    assert_eq!(answer["account"], host::ACCOUNT);
    assert_eq!(
        (
            host.google.exchanges().len(),
            host.google.impersonations().len()
        ),
        (1, 1)
    );
    host.keeps_its_secrets();
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn what_the_world_has_of_the_issuer_is_compared_with_this_hosts_key() {
    let world = world("federate-check");
    let host = Host::of(&world, "azure");
    let checked = host.check();
    assert!(checked.status.success(), "{checked:?}");
    // Another host's key lies there, or none at all.
    let keys = world.directory().join("published/keys");
    let own = std::fs::read_to_string(&keys).unwrap();
    for (other, told) in [
        (
            own.replace("\"kid\":\"", "\"kid\":\"x"),
            "lacks this host's key",
        ),
        ("<html>".to_owned(), "it isn't JSON"),
    ] {
        std::fs::write(&keys, other).unwrap();
        let checked = host.check();
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(1), "{said}");
        assert!(said.contains(told), "{said}");
    }
    std::fs::remove_file(&keys).unwrap();
    let said = host.check().stderr;
    assert!(String::from_utf8_lossy(&said).contains("status 404"));
}

/// One address has one dialect: the others are found where their cloud has them beside it.
const CONTAINER: (&str, &str) = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "/v2/credentials/billing",
);
const GOOGLES: &str = "[fd20:ce::254]";

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn three_clouds_on_one_host_each_by_an_assertion_of_its_own() {
    let world = world("federate-three");
    let host = Host::with(&world, |policy| policy);
    let billing = host.billing();
    let asked = [
        host.azure(&billing),
        host.boto(&billing, &[CONTAINER]),
        host.google(&billing, GOOGLES),
    ];
    for answer in asked {
        assert_eq!(answer["ok"], true, "{answer}\n{}", host.agent.log());
    }
    let signed = host.signed();
    let mut audiences: Vec<&str> = signed
        .iter()
        .map(|line| line["aud"].as_str().unwrap())
        .collect();
    audiences.sort_unstable();
    let pool = format!("https://iam.googleapis.com/{}", host::PROVIDER);
    let all = ["api://AzureADTokenExchange", &*pool, "sts.amazonaws.com"];
    assert_eq!(audiences, all);
    for line in signed {
        assert_eq!(line["sub"], host::SUBJECT, "{line}");
        assert_eq!(line["workload"], "billing", "{line}");
    }
    host.keeps_its_secrets();
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_gets_none_of_it_and_no_cloud_hears_of_it() {
    let world = world("federate-neighbour");
    let host = Host::with(&world, |policy| policy);
    let neighbour = host.neighbour();
    for answer in [
        host.azure(&neighbour),
        host.boto(&neighbour, &[CONTAINER]),
        host.google(&neighbour, GOOGLES),
    ] {
        assert_eq!(answer["ok"], false, "{answer}");
    }
    assert!(host.entra.received().is_empty() && host.sts.received().is_empty());
    assert!(host.google.exchanges().is_empty() && host.signed().is_empty());
    assert!(host.issuer.received().is_empty());
}
