//! What is in the package: a manual page and completions for every verb, sound pages, files as Debian wants them.

use super::deb;
use clap::CommandFactory as _;
use imds_guard::cli::Cli;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Standard output and errors of a command that succeeds.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// The package unpacked: its tree, with the control files in `DEBIAN`.
fn unpacked() -> TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    let deb = deb(1).expect("the package");
    said(Command::new("dpkg-deb").arg("-R").arg(deb).arg(tree.path()));
    tree
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

/// Names of all verbs that people call.
fn verbs() -> Vec<String> {
    let command = Cli::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs.map(|verb| verb.get_name().to_owned()).collect()
}

#[test]
#[ignore = "package: cargo xtask test package"]
fn every_verb_has_a_page_and_is_completed() {
    let tree = unpacked();
    let verbs = verbs();
    assert!(verbs.len() >= 7, "{verbs:?}");
    for verb in &verbs {
        let page = format!("usr/share/man/man8/imds-guard-{verb}.8.gz");
        assert!(tree.path().join(&page).is_file(), "no {page}");
    }
    for completion in [
        "bash-completion/completions/imds-guard",
        "zsh/vendor-completions/_imds-guard",
        "fish/vendor_completions.d/imds-guard.fish",
    ] {
        let file = tree.path().join("usr/share").join(completion);
        let text = fs::read_to_string(&file).expect(completion);
        for verb in &verbs {
            assert!(text.contains(&**verb), "{completion} lacks {verb}");
        }
    }
    let bash = "usr/share/bash-completion/completions/imds-guard";
    let completes = format!(
        ". {}; COMP_WORDS=(imds-guard st); COMP_CWORD=1; _imds__guard imds-guard st imds-guard; echo ${{COMPREPLY[@]}}",
        tree.path().join(bash).display()
    );
    assert_eq!(
        said(Command::new("bash").args(["-c", &completes])).trim(),
        "status"
    );
}

#[test]
#[ignore = "package: cargo xtask test package"]
fn all_pages_are_rendered_without_a_warning() {
    let tree = unpacked();
    let pages = files(&tree.path().join("usr/share/man"));
    assert!(pages.len() > verbs().len() + 1, "{pages:?}");
    for page in pages {
        // As lintian asks.
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]);
        let output = man
            .arg(&page)
            .env("MANWIDTH", "80")
            .output()
            .expect("man-db: cargo xtask setup");
        let warnings = String::from_utf8_lossy(&output.stderr);
        // About where lines break, which lintian passes over as well.
        let about_lines = |line: &&str| !line.contains("cannot adjust line");
        let warnings: Vec<&str> = warnings.lines().filter(about_lines).collect();
        assert!(
            output.status.success() && warnings.is_empty(),
            "{}: {warnings:?}",
            page.display()
        );
        let text = said(Command::new("man").arg("-l").arg(&page));
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{text}");
        assert!(
            !text.contains("proxy --") && !text.contains("imds-guard-proxy(8)"),
            "{text}"
        );
    }
}

#[test]
#[ignore = "package: cargo xtask test package"]
fn control_data_and_scripts_are_as_debian_wants_them() {
    let tree = unpacked();
    let control = tree.path().join("DEBIAN");
    let fields = fs::read_to_string(control.join("control")).expect("control");
    for field in [
        "Package: imds-guard",
        "Architecture: amd64",
        "Maintainer: ",
        "Installed-Size: ",
    ] {
        assert!(fields.contains(field), "{fields}");
    }
    assert!(
        !fields.contains('@') || fields.matches('@').count() == 1,
        "a placeholder: {fields}"
    );
    for script in ["postinst", "prerm", "postrm"] {
        let script = control.join(script);
        assert_eq!(
            script.metadata().expect("a script").permissions().mode() & 0o777,
            0o755
        );
        said(Command::new("sh").arg("-n").arg(script));
    }
    let conffiles = fs::read_to_string(control.join("conffiles")).expect("conffiles");
    assert_eq!(
        conffiles,
        "/etc/imds-guard/imds-guard.toml\n/etc/logrotate.d/imds-guard\n"
    );
}

#[test]
#[ignore = "package: cargo xtask test package"]
fn files_are_roots_with_the_modes_and_sums_that_they_should_have() {
    let tree = unpacked();
    for file in files(&tree.path().join("usr"))
        .iter()
        .chain(&files(&tree.path().join("etc")))
    {
        let is = file.metadata().expect("a file");
        let mode = if file.ends_with("usr/bin/imds-guard") {
            0o755
        } else {
            0o644
        };
        assert_eq!(
            (is.uid(), is.gid(), is.mode() & 0o7777),
            (0, 0, mode),
            "{}",
            file.display()
        );
    }
    let checked = said(
        Command::new("md5sum")
            .args(["--check", "--quiet", "DEBIAN/md5sums"])
            .current_dir(tree.path()),
    );
    assert_eq!(checked, "");
    for needed in [
        "copyright",
        "changelog.Debian.gz",
        "examples/azure.toml",
        "examples/aws.toml",
        "examples/gcp.toml",
    ] {
        assert!(
            tree.path()
                .join("usr/share/doc/imds-guard")
                .join(needed)
                .is_file(),
            "no {needed}"
        );
    }
}
