//! `federate` and `issuer`: what an operator is told to set up, and what is published.

use super::{errors, run};
use imds_guard_tests::binary;
use serde_json::Value;
use std::process::Output;

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../agent/docs/policy/10-federation.toml"
);
const SUBJECT: &str = "spiffe://example.org/host/web-07/workload/billing";
const ISSUER: &str = "https://idp.example.org/hosts";

fn said(arguments: &[&str]) -> Output {
    run(&binary("imds-guard").expect("the agent, built"), arguments)
}

fn setup(cloud: &str) -> (String, Value) {
    let ask = |more: &[&str]| {
        let words = [
            "federate",
            cloud,
            "--workload",
            "billing",
            "--config",
            EXAMPLE,
        ];
        let output = said(&[&words[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let json: Value = serde_json::from_str(&ask(&["--json"])).expect("JSON");
    (ask(&[]), json[0].clone())
}

#[test]
fn issuer_subject_and_audience_are_printed_to_the_letter_with_the_commands() {
    for (cloud, audience, command) in [
        (
            "azure",
            "api://AzureADTokenExchange",
            "az ad app federated-credential create",
        ),
        (
            "aws",
            "sts.amazonaws.com",
            "aws iam create-open-id-connect-provider",
        ),
        (
            "gcp",
            "https://iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/hosts/providers/example-org",
            "gcloud iam workload-identity-pools providers create-oidc",
        ),
    ] {
        let (text, json) = setup(cloud);
        assert_eq!(json["issuer"], ISSUER);
        assert_eq!(json["subject"], SUBJECT);
        assert_eq!(json["audience"], audience);
        for expected in [command, "resource \"", SUBJECT, ISSUER] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}

#[test]
fn a_role_trusts_one_subject_and_one_audience() {
    let (_, json) = setup("aws");
    let statement = &json["trust_policy"]["Statement"][0];
    assert_eq!(
        statement["Principal"]["Federated"],
        "arn:aws:iam::123456789012:oidc-provider/idp.example.org/hosts"
    );
    let condition = &statement["Condition"]["StringEquals"];
    assert_eq!(condition["idp.example.org/hosts:sub"], SUBJECT);
    assert_eq!(condition["idp.example.org/hosts:aud"], "sts.amazonaws.com");
}

#[test]
fn what_isnt_in_the_policy_is_told_and_2() {
    for (workload, told) in [
        ("nobody", "there is no workload `nobody`"),
        ("billing-api", "gives anything of this cloud"),
    ] {
        let config = if workload == "nobody" {
            EXAMPLE
        } else {
            concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/policy.toml")
        };
        let output = said(&[
            "federate",
            "azure",
            "--workload",
            workload,
            "--config",
            config,
        ]);
        assert_eq!(output.status.code(), Some(2));
        assert!(errors(&output).contains(told), "{}", errors(&output));
    }
}

#[test]
fn what_is_published_is_whole_public_and_has_no_private_part() {
    let directory = tempfile::tempdir().expect("a directory");
    let (state, to) = (directory.path().join("state"), directory.path().join("to"));
    let words = ["issuer", "publish", "--config", EXAMPLE, "--state-dir"];
    let mut arguments = words.to_vec();
    arguments.extend([state.to_str().unwrap(), "--dir", to.to_str().unwrap()]);
    let output = said(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let read = |name: &str| -> Value {
        let bytes = std::fs::read(to.join(name)).expect(name);
        serde_json::from_slice(&bytes).expect(name)
    };
    let discovery = read(".well-known/openid-configuration");
    assert_eq!(discovery["issuer"], ISSUER);
    assert_eq!(discovery["jwks_uri"], format!("{ISSUER}/keys"));
    let keys = read("keys");
    let key = keys["keys"][0].as_object().expect("a key");
    let mut names: Vec<&str> = key.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["alg", "e", "kid", "kty", "n", "use"]);
    // Again: the same key, in the place of the same files.
    assert_eq!(said(&arguments).status.code(), Some(0));
    assert_eq!(read("keys"), keys);
    let left: Vec<_> = std::fs::read_dir(&to)
        .expect("the directory")
        .flatten()
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_policy_without_an_issuer_has_nothing_to_publish() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("none.toml");
    std::fs::write(&file, "").expect("a file");
    let output = said(&[
        "issuer",
        "publish",
        "--check",
        "--config",
        file.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("[issuer]"), "{}", errors(&output));
}
