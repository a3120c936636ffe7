//! The real binary as an operator meets it, without interception and without power: exit codes, and one line that says what to do.

mod doctor;
mod documents;
mod federation;
mod policy;
mod powers;
mod status;

use imds_guard_tests::binary;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The binary where any user can run it.
fn installed() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))
        .expect("a mode on our own directory");
    let program = directory.path().join("imds-guard");
    let built = binary("imds-guard").expect("the built agent");
    std::fs::copy(built, &program).expect("a copy of the agent");
    (directory, program)
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .output()
        .expect("the agent starts")
}

/// As a user without any power: nobody, where we are root; ourselves elsewhere.
fn run_powerless(program: &Path, arguments: &[&str]) -> Output {
    if !nix::unistd::geteuid().is_root() {
        return run(program, arguments);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(program)
        .args(arguments);
    command.output().expect("setpriv is there")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_names_the_program() {
    let output = run(&binary("imds-guard").unwrap(), &["version"]);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("imds-guard"));
}

#[test]
fn bad_usage_is_2_and_help_is_0() {
    let program = binary("imds-guard").unwrap();
    assert_eq!(run(&program, &["no-such-verb"]).status.code(), Some(2));
    assert_eq!(
        run(&program, &["run", "--no-such-flag"]).status.code(),
        Some(2)
    );
    let help = run(&program, &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
}

#[test]
fn run_without_power_is_refused_with_a_remedy_and_leaves_nothing() {
    let (directory, program) = installed();
    let config = directory.path().join("imds-guard.toml");
    std::fs::write(&config, include_str!("../systemd/policy.toml")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let output = run_powerless(&program, &["run", "--config", &config]);
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    let said = errors(&output);
    assert!(said.contains("root"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one line: {said}");
}
