//! What people are given to read and to start from is true: example policies are accepted and guard nothing by surprise, and
//! imds-guard.toml(5) names every key that there is.

use super::{errors, run};
use imds_guard_core::policy::{self, Mode, Source};
use imds_guard_tests::binary;
use std::fs;
use std::path::{Path, PathBuf};

/// A path of the work tree.
fn of_ours(path: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a work tree").join(path)
}

fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(of_ours("systemd/examples")).expect("the examples");
    let mut all: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

#[test]
fn example_policies_are_accepted_and_observe_until_somebody_says_otherwise() {
    let main = of_ours("systemd/etc/imds-guard.toml");
    let clouds = examples();
    assert_eq!(clouds.len(), 3, "one per cloud: {clouds:?}");
    let alone = vec![&main];
    let with_each = clouds.iter().map(|cloud| vec![&main, cloud]);
    for files in [alone].into_iter().chain(with_each) {
        let names: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
        let output = run(
            &binary("imds-guard").unwrap(),
            &[&["check"], &names[..]].concat(),
        );
        assert_eq!(
            output.status.code(),
            Some(0),
            "{names:?}: {}",
            errors(&output)
        );
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(" 0 warnings"), "{names:?}: {said}");
        let sources: Vec<_> = files.iter().map(|file| source(file)).collect();
        let compiled = policy::compile(&sources, "host", 0).expect("it was accepted");
        let guarded = compiled.settings.guarded();
        assert!(guarded.len() >= 5, "{guarded:?}");
        for endpoint in guarded {
            assert_eq!(endpoint.mode, Mode::Observe, "{names:?}: {endpoint:?}");
        }
    }
}

/// The presets that the examples tell of, beside the main file's includes, change no mode either.
#[test]
fn presets_in_the_main_file_observe_as_well() {
    let mut main = source(&of_ours("systemd/etc/imds-guard.toml"));
    let all =
        r#"include = ["preset:azure-platform", "preset:aws-platform", "preset:gcp-platform"]"#;
    main.text = main
        .text
        .replace(r#"include = ["policy.d/*.toml"]"#, all)
        .into();
    assert!(main.text.contains(all));
    let compiled = policy::compile(&[main], "host", 0).unwrap_or_else(|found| panic!("{found}"));
    assert!(compiled.policy.rules() > 5);
    assert!(
        compiled
            .settings
            .guarded()
            .iter()
            .all(|e| e.mode == Mode::Observe)
    );
}

fn source(file: &Path) -> Source {
    Source {
        name: file.display().to_string().into(),
        text: fs::read_to_string(file).expect("a file").into(),
    }
}

/// One unknown key in each table: the message names all that there are.
const UNKNOWN: &str = r#"
x = 1
host = { x = 1 }
issuer = { x = 1 }
audit = { x = 1 }
proxy = { x = 1 }
hardening = { x = 1 }
endpoint = [{ name = "e", x = 1 }]
guest = [{ interface = "tap0", x = 1 }]
lifeline = [{ executable = "/x", unit = "x.service", endpoint = "gcp-imds", x = 1 }]
identity = { i = { x = 1 } }
document = { d = { x = 1 } }
resource = { r = { x = 1 } }
workload = [{ name = "w", selectors = ["unix:uid:0"], x = 1, allow = [{ x = 1, token = { x = 1 } }] }]
deny = [{ x = 1 }]
"#;

#[test]
fn the_manual_page_names_every_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("unknown.toml");
    fs::write(&file, UNKNOWN).unwrap();
    let said = errors(&run(
        &binary("imds-guard").unwrap(),
        &["check", file.to_str().unwrap()],
    ));
    let lists: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once("its keys are: "))
        .map(|(_, keys)| keys)
        .collect();
    assert_eq!(lists.len(), UNKNOWN.matches("x = 1").count(), "{said}");
    let page = fs::read_to_string(of_ours("agent/docs/man/imds-guard.toml.5")).unwrap();
    // Changes of fonts inside a line.
    let page = page.replace("\\fB", " ").replace("\\fR", " ");
    let words: Vec<&str> = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    for key in lists.iter().flat_map(|list| list.split(", ")) {
        assert!(
            words.contains(&key.trim()),
            "imds-guard.toml(5) says nothing of `{key}`: {lists:?}"
        );
    }
}
