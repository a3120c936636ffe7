//! The threat model's table of states: every row names tests, and each of them is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const MANUAL: &str = include_str!("../../agent/docs/threat-model.md");

/// Names of all test functions below `tests/`.
fn tests(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let after = text.split("#[test]").skip(1);
            let name = |code: &str| Some(code.split_once("fn ")?.1.split_once('(')?.0.to_owned());
            all.extend(after.filter_map(name));
        }
    }
}

fn rows() -> Vec<Vec<&'static str>> {
    let (_, states) = MANUAL.split_once("## States").unwrap();
    let states = states.split("\n## ").next().unwrap();
    let lines = states.lines().filter(|line| line.starts_with("| "));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.skip(1).map(cells).collect()
}

#[test]
fn every_state_of_the_threat_model_has_a_test_that_is_there() {
    let mut all = BTreeSet::new();
    tests(Path::new(env!("CARGO_MANIFEST_DIR")), &mut all);
    let named = |text: &'static str| text.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    for mode in ["observe", "audit", "enforce"] {
        let walk = format!("each_state_in_{mode}_is_as_the_threat_model_says");
        assert!(
            MANUAL.contains(&format!("`{walk}`")) && all.contains(&walk),
            "{walk}"
        );
    }
    let rows = rows();
    assert!(rows.len() >= 12, "{rows:?}");
    for row in rows {
        assert_eq!(row.len(), 7, "{row:?}");
        let named = named(row[6]);
        assert!(
            !named.is_empty() || row[6].starts_with("none"),
            "no test behind {:?}",
            row[0]
        );
        for name in named {
            assert!(all.contains(name), "{:?}: there is no test {name}", row[0]);
        }
    }
}

#[test]
fn every_promise_of_break_glass_names_tests_that_are_there() {
    let mut all = BTreeSet::new();
    tests(Path::new(env!("CARGO_MANIFEST_DIR")), &mut all);
    let (_, section) = MANUAL.split_once("## Break-glass").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1);
    let mut promises = 0;
    for row in rows {
        let last = row.trim_matches('|').split('|').next_back().unwrap();
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test behind {row}");
        for name in named {
            assert!(all.contains(name), "there is no test {name}: {row}");
        }
        promises += 1;
    }
    assert!(promises >= 12, "{promises}");
}
