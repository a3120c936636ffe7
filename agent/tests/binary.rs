//! What an operator sees of the binary where nothing may be in force afterwards: exit codes, one-line errors, custody.
//! Goes only as far as a refusal, in a network namespace of its own: no kernel program is ever attached here.

#![expect(clippy::unwrap_used, reason = "a test may end with a panic")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

const POLICY: &str = r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1001"]
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir_in("/root").unwrap();
        std::fs::write(dir.path().join("main.toml"), config).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.arg("-n").arg(env!("CARGO_BIN_EXE_imds-guard"));
        command
            .arg("run")
            .arg("--config")
            .arg(self.path().join("main.toml"));
        for (flag, name) in [
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            // Neither cgroup2 nor bpffs: a start that gets this far is refused there, and never attaches anything.
            ("--cgroup-root", "no-cgroup"),
            ("--pin-dir", "pins"),
            ("--audit", "audit.jsonl"),
        ] {
            command.arg(flag).arg(self.path().join(name));
        }
        command.args(["--proxy-user", "nobody"]);
        command
    }

    fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    fn mode(&self, name: &str, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path().join(name), permissions).unwrap();
    }
}

#[track_caller]
fn refused(output: &Output, code: i32, says: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(says), "{told}");
}

#[test]
fn usage_errors_are_2_and_version_is_0() {
    let imds_guard = || Command::new(env!("CARGO_BIN_EXE_imds-guard"));
    assert_eq!(
        imds_guard().arg("nonsense").output().unwrap().status.code(),
        Some(2)
    );
    let version = imds_guard().args(["version", "--json"]).output().unwrap();
    assert!(version.status.success());
    let facts: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(facts["name"], "imds-guard");
}

#[test]
fn without_root_it_says_so() {
    let copy = public_copy();
    let output = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ])
        // The build directory may be closed to others: a copy that they can run.
        .arg(&*copy)
        .args(["run", "--config", "/nowhere"])
        .output()
        .unwrap();
    refused(&output, 3, "sudo");
}

fn public_copy() -> tempfile::TempPath {
    let copy = tempfile::Builder::new()
        .tempfile()
        .unwrap()
        .into_temp_path();
    std::fs::copy(env!("CARGO_BIN_EXE_imds-guard"), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn a_configuration_in_other_hands_is_refused_and_its_twin_gets_further() {
    let place = Place::new(POLICY);
    place.mode("main.toml", 0o666);
    refused(&place.run(), 2, "chmod go-w");
    place.mode("main.toml", 0o644);
    // The same file, now in good hands: the next thing that is wrong is the cgroup.
    refused(&place.run(), 3, "--cgroup-root");
    std::fs::rename(
        place.path().join("main.toml"),
        place.path().join("real.toml"),
    )
    .unwrap();
    symlink("real.toml", place.path().join("main.toml")).unwrap();
    refused(&place.run(), 2, "symbolic link");
}

#[test]
fn a_missing_or_bad_configuration_is_refused_with_its_place() {
    let place = Place::new("[[workload]]\nname = \"a\"\nselectors = []\n");
    refused(&place.run(), 2, "main.toml:3");
    std::fs::remove_file(place.path().join("main.toml")).unwrap();
    refused(&place.run(), 2, "main.toml");
}

#[test]
fn an_open_state_directory_or_key_is_refused() {
    let issuer = "[issuer]\nurl = \"http://127.0.0.1:8787\"\n";
    let place = Place::new(&format!("{issuer}{POLICY}"));
    std::fs::create_dir(place.path().join("state")).unwrap();
    place.mode("state", 0o755);
    refused(&place.run(), 1, "chmod 0700");
    place.mode("state", 0o700);
    std::fs::write(place.path().join("state/issuer-key.json"), "{}").unwrap();
    place.mode("state/issuer-key.json", 0o644);
    refused(&place.run(), 1, "chmod 0600");
}

#[test]
fn a_proxy_user_that_is_not_there_is_refused() {
    let place = Place::new(POLICY);
    let mut command = Command::new("unshare");
    command
        .arg("-n")
        .arg(env!("CARGO_BIN_EXE_imds-guard"))
        .arg("run");
    command.arg("--config").arg(place.path().join("main.toml"));
    command.arg("--run-dir").arg(place.path().join("run"));
    command
        .arg("--cgroup-root")
        .arg(place.path().join("no-cgroup"));
    let output = command
        .args(["--proxy-user", "no-such-user"])
        .output()
        .unwrap();
    refused(&output, 3, "useradd");
}
