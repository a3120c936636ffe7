//! `check` and `explain`: what a pipeline and an operator read off the exit code, the messages and the JSON.

use super::{errors, run};
use imds_guard_tests::binary;
use serde_json::Value;
use std::process::Output;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/policy.toml");
const TOKEN: &str =
    "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

fn said(arguments: &[&str]) -> Output {
    run(&binary("imds-guard").expect("the agent, built"), arguments)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A policy with two mistakes, in a file of its own.
fn mistaken() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mistaken.toml");
    let example = std::fs::read_to_string(EXAMPLE).expect("the example");
    let wrong = example
        .replace("systemd:id:billing.service", "nonsense")
        .replace("identity = \"billing\"", "identity = \"nobodys\"");
    std::fs::write(&file, wrong).expect("a file");
    let file = file.to_str().expect("UTF-8").to_owned();
    (directory, file)
}

#[test]
fn check_accepts_the_example_with_0() {
    let output = said(&["check", EXAMPLE]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(text(&output), "ok: 3 workloads, 5 rules, 0 warnings\n");
    let output = said(&["check", "--json", EXAMPLE]);
    assert_eq!(output.status.code(), Some(0));
    let accepted = json(&output);
    assert_eq!(accepted["ok"], true);
    assert_eq!(
        (&accepted["workloads"], &accepted["rules"]),
        (&3.into(), &5.into())
    );
    assert_eq!(accepted["findings"].as_array().unwrap().len(), 0);
}

#[test]
fn check_names_every_mistake_with_its_place_and_2() {
    let (_kept, file) = mistaken();
    let output = said(&["check", &file]);
    assert_eq!(output.status.code(), Some(2));
    let told = errors(&output);
    for expected in ["nonsense", "nobodys", &format!("{file}:")] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
    let output = said(&["check", "--json", &file]);
    assert_eq!(output.status.code(), Some(2));
    let refused = json(&output);
    assert_eq!(refused["ok"], false);
    let findings = refused["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 2, "{refused:#}");
    for finding in findings {
        assert_eq!(finding["file"], file.as_str());
        assert!(finding["line"].as_u64().unwrap() > 1, "{finding:#}");
        assert_eq!(finding["severity"], "error");
    }
}

#[test]
fn check_says_where_and_why_trust_roots_can_not_be_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let (main, roots) = (
        directory.path().join("main.toml"),
        directory.path().join("roots.pem"),
    );
    let policy = format!("[trust]\nroots = \"{}\"\n", roots.display());
    std::fs::write(&main, policy).expect("a file");
    let main = main.to_str().expect("UTF-8");
    let told = |because: &str| {
        let output = said(&["check", main]);
        assert_eq!(output.status.code(), Some(2), "{because}");
        let told = errors(&output);
        for expected in [
            &format!("{main}:2:9"),
            because,
            "write the path of a PEM file",
        ] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
    };
    told("No such file");
    std::fs::create_dir(&roots).expect("a directory");
    told("Is a directory");
    std::fs::remove_dir(&roots).expect("removed");
    std::fs::write(&roots, "no certificate\n").expect("a file");
    told("no certificate is in it");
    let authority = imds_guard_tests::Authority::new().expect("an authority");
    std::fs::write(&roots, authority.pem()).expect("a file");
    let output = said(&["check", main]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
}

#[test]
fn check_of_a_file_that_is_not_there_is_2() {
    let output = said(&["check", "/nowhere/policy.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("/nowhere/policy.toml can't be read"));
}

fn explain(selector: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["explain", "--config", EXAMPLE, "--request", TOKEN];
    arguments.extend(more);
    arguments.extend(["--selectors", selector]);
    said(&arguments)
}

#[test]
fn explain_tells_whom_policy_allows_what_and_whom_not() {
    let allowed = explain("systemd:id:billing.service", &[]);
    assert_eq!(allowed.status.code(), Some(0), "{}", errors(&allowed));
    let told = text(&allowed);
    assert!(
        told.contains("ALLOWED: a token minted as identity `billing`"),
        "{told}"
    );
    assert!(told.contains("billing-reads-secrets"), "{told}");
    // A denial is what was asked for, too: the command did its work.
    let denied = explain("systemd:id:web.service", &[]);
    assert_eq!(denied.status.code(), Some(0));
    let told = text(&denied);
    assert!(
        told.contains("DENIED: no workload matches the caller"),
        "{told}"
    );
}

#[test]
fn explain_in_json_has_the_verdict_and_the_rule_with_its_place() {
    let allowed = json(&explain("systemd:id:billing.service", &["--json"]));
    assert_eq!(allowed["verdict"]["allowed"], true);
    assert_eq!(allowed["verdict"]["workload"], "billing-api");
    assert_eq!(allowed["verdict"]["rule"]["name"], "billing-reads-secrets");
    assert!(allowed["rules"][0]["line"].as_u64().unwrap() > 1);
    let denied = json(&explain("systemd:id:web.service", &["--json"]));
    assert_eq!(denied["verdict"]["allowed"], false);
    assert_eq!(denied["verdict"]["reason"], "no_workload");
}

#[test]
fn explain_of_what_can_not_be_read_is_2_and_says_what_to_write() {
    let output = explain("nonsense", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("for example unix:uid:1000"));
    let (_kept, file) = mistaken();
    let caller = ["--selectors", "unix:uid:1000"];
    let with = |config: &str, request: &str| {
        let arguments = ["explain", "--config", config, "--request", request];
        said(&[&arguments[..], &caller].concat()).status.code()
    };
    assert_eq!(with(&file, TOKEN), Some(2), "a policy with mistakes");
    assert_eq!(with(EXAMPLE, "nonsense"), Some(2), "no request");
    assert_eq!(with(EXAMPLE, TOKEN), Some(0), "and the same with neither");
    let nobody = said(&["explain", "--config", EXAMPLE, "--request", TOKEN]);
    assert_eq!(nobody.status.code(), Some(2), "no caller named");
}
