//! What takes root says so to everybody else, and what is said wrong is told before anything is done.

use super::{errors, installed, run, run_powerless};

#[test]
fn ways_back_in_are_roots() {
    let (_directory, program) = installed();
    for verb in [
        &["reload"][..],
        &["reload", "--confirm-within", "10m"],
        &["confirm"],
        &["bypass", "--list"],
        &["bypass", "--end", "00000000"],
        &["bypass", "--uid", "1", "--for", "1m", "--reason", "x"],
    ] {
        let output = run_powerless(&program, verb);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{verb:?}: {}",
            errors(&output)
        );
        assert!(errors(&output).contains("root"), "{verb:?}");
    }
}

#[test]
fn times_and_reasons_are_checked_first() {
    let (_directory, program) = installed();
    for (verb, word) in [
        (&["reload", "--confirm-within", "10"][..], "10m"),
        (&["reload", "--confirm-within", "25h"], "24h"),
        (
            &["bypass", "--uid", "1", "--for", "0s", "--reason", "x"],
            "10m",
        ),
        (
            &["bypass", "--uid", "1", "--for", "9h", "--reason", "x"],
            "8h",
        ),
        (
            &["bypass", "--uid", "1", "--for", "1m", "--reason", " "],
            "why",
        ),
        (&["bypass", "--for", "1m", "--reason", "x"], "--workload"),
        (
            &[
                "bypass",
                "--workload",
                "w",
                "--uid",
                "1",
                "--for",
                "1m",
                "--reason",
                "x",
            ],
            "--uid",
        ),
    ] {
        let output = run(&program, verb);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{verb:?}: {}",
            errors(&output)
        );
        assert!(
            errors(&output).contains(word),
            "{verb:?}: {}",
            errors(&output)
        );
    }
}
