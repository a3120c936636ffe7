//! Rules for the tree: what lies at the top, that every crate takes the workspace's lints, and what no file may name.

use super::Tracked;

/// What may lie at the top of the tree; names that begin with a dot configure tools.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "agent",
    "ebpf",
    "xtask",
    "systemd",
    "tests",
];
const DOTS: [&str; 7] = [
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".config",
    ".deny.toml",
    ".gitignore",
    ".gitattributes",
];

/// What is wrong with the tree as a whole.
pub(super) fn offences(files: &[Tracked]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let top = file.path.split('/').next().unwrap_or_default();
        if !TOP.contains(&top) && !DOTS.contains(&top) && !file.path.starts_with("LICENSE") {
            found.push(format!(
                "{}: `{top}` doesn't belong at the top of the tree",
                file.path
            ));
        }
        if file.path.ends_with("Cargo.toml")
            && file.text.contains("[package]")
            && !takes_lints(file)
        {
            found.push(format!(
                "{}: lacks `[lints] workspace = true`; without it no lint applies to the crate",
                file.path
            ));
        }
        if file.path.ends_with("/mod.rs") {
            found.push(format!(
                "{}: name it after its folder, beside it",
                file.path
            ));
        }
        found.extend(forbidden(file));
    }
    found
}

fn takes_lints(file: &Tracked) -> bool {
    // The fuzz targets are a workspace of their own: libFuzzer's macros don't stand the lints.
    file.path.contains("/fuzz/") || file.text.contains("[lints]\nworkspace = true")
}

/// Names of package hosts (whoever builds may have others) and paths of one machine. Written in pieces: this file is tracked.
fn forbidden(file: &Tracked) -> Vec<String> {
    if file.path == "Cargo.lock" || file.path.ends_with("/Cargo.lock") {
        return Vec::new();
    }
    let words = [
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("deb.", "debian.org"),
        concat!("registry.", "npmjs.org"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/home", "/"),
    ];
    let lines = file.text.lines().enumerate();
    lines
        .flat_map(|(at, line)| {
            words
                .iter()
                .filter(move |word| line.contains(**word))
                .map(move |word| (at + 1, word))
        })
        .map(|(line, word)| {
            format!(
                "{}:{line}: names `{word}`: of one machine or one mirror",
                file.path
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Tracked {
        Tracked {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_crate_without_the_workspaces_lints_is_named() {
        assert_eq!(
            offences(&[file("agent/Cargo.toml", "[package]\nname = \"a\"\n")]).len(),
            1
        );
        assert!(
            offences(&[file(
                "agent/Cargo.toml",
                "[package]\n[lints]\nworkspace = true\n"
            )])
            .is_empty()
        );
    }

    #[test]
    fn strangers_at_the_top_and_mirrors_are_named() {
        assert_eq!(offences(&[file("scripts/x.sh", "")]).len(), 1);
        assert_eq!(
            offences(&[file("tests/x.sh", concat!("curl pypi", ".org"))]).len(),
            1
        );
        assert!(offences(&[file("tests/x.sh", "pip install x")]).is_empty());
    }
}
