//! `imds-guard doctor` where nothing of ours is: what it says, how it ends, and that it doesn't call unknown what it likes.

use super::{errors, installed, run, run_powerless};
use imds_guard_tests::binary;
use std::os::unix::fs::PermissionsExt;

fn json(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

fn state<'v>(report: &'v serde_json::Value, check: &str) -> &'v str {
    let all = report["findings"].as_array().expect("findings");
    let found = all.iter().find(|f| f["check"] == check);
    let state = found.and_then(|f| f["state"].as_str());
    state.expect("a finding of that check, with a state")
}

#[test]
fn where_it_was_never_installed_it_says_open_to_everybody() {
    let (directory, program) = installed();
    let nowhere = directory.path().join("nowhere");
    let places = [
        "--pin-dir",
        nowhere.to_str().unwrap(),
        "--run-dir",
        nowhere.to_str().unwrap(),
    ];
    let arguments = [&["doctor", "--json"][..], &places].concat();
    for output in [
        run(&program, &arguments),
        run_powerless(&program, &arguments),
    ] {
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        let report = json(&output);
        assert_eq!(
            (report["format"].as_u64(), report["verdict"].as_str()),
            (Some(1), Some("open"))
        );
        assert_eq!(state(&report, "layers"), "open");
        assert_eq!(state(&report, "guard"), "weak");
        let layers = report["layers"].as_array().unwrap();
        assert!(
            layers.iter().all(|layer| layer["state"] != "ok"),
            "{layers:#?}"
        );
        for finding in report["findings"].as_array().unwrap() {
            let told = |key: &str| !finding[key].as_str().unwrap().is_empty();
            assert!(told("what"), "{finding}");
            assert_eq!(
                told("means") && told("remedy"),
                finding["state"] != "ok",
                "{finding}"
            );
        }
    }
}

#[test]
fn without_power_what_it_cannot_see_is_unknown_and_never_ok() {
    let (directory, program) = installed();
    // As a pin directory is: root's alone. Somebody else's, where we aren't root: then there is nothing to hide.
    let pins = directory.path().join("pins");
    std::fs::create_dir(&pins).unwrap();
    let hidden = nix::unistd::geteuid().is_root();
    std::fs::set_permissions(
        &pins,
        std::fs::Permissions::from_mode(if hidden { 0o700 } else { 0 }),
    )
    .unwrap();
    let output = run_powerless(
        &program,
        &["doctor", "--json", "--pin-dir", pins.to_str().unwrap()],
    );
    std::fs::set_permissions(&pins, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", errors(&output));
    let report = json(&output);
    assert_eq!(report["verdict"], "unknown");
    for check in [
        "layers",
        "programs",
        "foreign-programs",
        "endpoints",
        "kernel",
    ] {
        assert_eq!(state(&report, check), "unknown", "{check}");
    }
    assert!(
        report["layers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|l| l["state"] == "unknown")
    );
}

#[test]
fn people_get_the_coverage_first_and_a_verdict_last() {
    let program = binary("imds-guard").unwrap();
    let output = run(
        &program,
        &[
            "doctor",
            "--pin-dir",
            "/nonexistent",
            "--run-dir",
            "/nonexistent",
        ],
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("no {what}: {text}"))
    };
    assert!(at("steering") < at("layers: 0 of"), "{text}");
    assert!(at("means: ") < at("do: "), "{text}");
    assert_eq!(text.trim_end().lines().last(), Some("OPEN"));
}

#[test]
fn what_is_accepted_is_told_and_does_not_count() {
    let program = binary("imds-guard").unwrap();
    let mut arguments = vec![
        "doctor",
        "--json",
        "--pin-dir",
        "/nonexistent",
        "--run-dir",
        "/nonexistent",
    ];
    let first = json(&run(&program, &arguments));
    let all: Vec<String> = first["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["state"] != "ok")
        .map(|f| f["check"].as_str().unwrap().to_owned())
        .collect();
    arguments.extend(all.iter().flat_map(|check| ["--accept", check.as_str()]));
    let output = run(&program, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let report = json(&output);
    let layers = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["check"] == "layers")
        .unwrap();
    assert_eq!(
        (&layers["state"], &layers["accepted"]),
        (&"open".into(), &true.into())
    );
    assert_eq!(
        run(&program, &["doctor", "--accept", "everything"])
            .status
            .code(),
        Some(2)
    );
}
