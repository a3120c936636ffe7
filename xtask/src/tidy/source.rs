//! Rules for one source file: it says what it is for, and it isn't too long.

use super::Tracked;

/// Past this, a file is an offence; past [`LOOK_TWICE`], it is listed.
const LINES: usize = 700;
const LOOK_TWICE: usize = 400;

/// What is wrong with one Rust file.
pub(super) fn offences(file: &Tracked) -> Vec<String> {
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines > LINES {
        found.push(format!(
            "{}: {lines} lines; {LINES} are the limit: split it by what it owns",
            file.path
        ));
    }
    if !has_module_doc(&file.text) {
        found.push(format!(
            "{}: no module doc (`//!`): what does it own, and what must it never do?",
            file.path
        ));
    }
    found
}

fn has_module_doc(text: &str) -> bool {
    // Inner attributes and a fuzz target's `#![no_main]` may come first.
    text.lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!"))
        .is_some_and(|line| line.starts_with("//!"))
}

/// List the files that are worth a second look.
pub(super) fn report_long(files: &[Tracked]) {
    let mut long: Vec<_> = files
        .iter()
        .filter(|f| f.path.ends_with(".rs"))
        .map(|f| (f.text.lines().count(), &f.path))
        .filter(|(lines, _)| *lines > LOOK_TWICE)
        .collect();
    long.sort_by(|a, b| b.cmp(a));
    for (lines, path) in long {
        println!("  look twice: {path} has {lines} lines");
    }
    for file in files.iter().filter(|f| f.path.ends_with(".rs")) {
        for (name, length) in functions(&file.text).filter(|(_, length)| *length > 45) {
            println!("  look twice: {}: fn {name} has {length} lines", file.path);
        }
    }
}

/// Functions and their lengths in lines, by indentation: rustfmt closes a function where it opened it.
fn functions(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<(usize, &str)> = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| Some((at, name(line)?)))
        .collect();
    starts.into_iter().filter_map(move |(at, name)| {
        let indent: String = lines[at].chars().take_while(|c| *c == ' ').collect();
        let close = format!("{indent}}}");
        let length = lines[at..].iter().position(|line| *line == close)?;
        Some((name, length + 1))
    })
}

fn name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let words_only = before.split_whitespace().all(|w| {
        matches!(w, "async" | "const" | "unsafe" | "extern" | "\"C\"") || w.starts_with("pub")
    });
    (words_only && !line.trim_end().ends_with('}'))
        .then(|| after.split(['(', '<']).next().unwrap_or(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_doc_may_follow_inner_attributes_and_nothing_else() {
        assert!(has_module_doc("//! What it is.\n"));
        assert!(has_module_doc("#![no_main]\n\n//! What it is.\n"));
        assert!(!has_module_doc("use std::fmt;\n//! Late.\n"));
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let text =
            "fn a() {\n    let b = { 1 };\n}\n\nimpl X {\n    pub async fn c(&self) {\n    }\n}\n";
        assert_eq!(functions(text).collect::<Vec<_>>(), [("a", 3), ("c", 2)]);
    }

    #[test]
    fn a_file_past_the_limit_is_an_offence() {
        let long = Tracked {
            path: "a.rs".into(),
            text: "//! Long.\n".repeat(LINES + 1),
        };
        assert_eq!(offences(&long).len(), 1);
        let at_the_limit = Tracked {
            path: "a.rs".into(),
            text: "//! Long.\n".repeat(LINES),
        };
        assert!(offences(&at_the_limit).is_empty());
    }
}
