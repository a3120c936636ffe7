//! What the operator reads about a bad policy file, to the letter: `bad/NAME.toml` gives `bad/NAME.txt`.
//! `IMDS_GUARD_WRITE_EXPECTED=1 cargo test -p imds-guard-core --test diagnostics` writes the texts anew; read the difference.

use std::path::Path;

use imds_guard_core::policy::{Severity, Source, compile};

/// 2026-11-21
const NOW: i64 = 1_795_219_200;

#[test]
fn bad_files_are_told_what_is_wrong_and_what_to_write() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let write = std::env::var_os("IMDS_GUARD_WRITE_EXPECTED").is_some();
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(
        files.len() >= 12,
        "{} files in {}",
        files.len(),
        folder.display()
    );
    let mut differ = vec![];
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let source = Source {
            name: name.into(),
            text: std::fs::read_to_string(&file).unwrap().into(),
        };
        let told = compile(&[source], "web-07", NOW).expect_err(name);
        for diagnostic in &told.all {
            assert!(
                !diagnostic.help.is_empty(),
                "{name}: no remedy for: {}",
                diagnostic.title
            );
        }
        let errors = told.all.iter().filter(|d| d.severity == Severity::Error);
        assert!(errors.count() > 0, "{name}");
        let expected = file.with_extension("txt");
        if write {
            std::fs::write(&expected, told.to_string()).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        if told.to_string() != expected {
            differ.push(format!(
                "--- {name}, expected:\n{expected}--- told:\n{told}"
            ));
        }
    }
    assert!(differ.is_empty(), "{}", differ.concat());
}
