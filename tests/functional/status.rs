//! `status` where no guard runs: what it says, and with which exit code.

use super::{errors, installed, run, run_powerless};
use serde_json::Value;

#[test]
fn where_no_guard_runs_it_says_so_and_exits_with_1() {
    let (directory, program) = installed();
    let nowhere = directory.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let places = ["status", "--run-dir", nowhere, "--pin-dir", nowhere];
    let output = run(&program, &places);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("does not run") && said.contains("guards nothing"),
        "{said}"
    );
    let output = run(&program, &[&places[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["running"], Value::Bool(false));
    assert_eq!(told["endpoints"], Value::Array(vec![]));
}

#[test]
fn what_could_not_be_looked_at_is_unknown_and_no_is_not_said() {
    let (directory, program) = installed();
    // Closed to its owner, too; root runs this as nobody.
    let closed = directory.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let inside = closed.join("run");
    let inside = inside.to_str().unwrap();
    let output = run_powerless(
        &program,
        &["status", "--run-dir", inside, "--pin-dir", inside],
    );
    assert_eq!(output.status.code(), Some(5), "{}", errors(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("unknown") && said.contains("as root"),
        "{said}"
    );
}
