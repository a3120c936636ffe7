//! Counts of tests, and reading them from what the runners print at their end.

use std::fmt;

/// Tests that passed and failed, and what was left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// One thing that failed.
    pub(crate) fn failure() -> Self {
        Self {
            failed: 1,
            ..Self::default()
        }
    }

    /// One thing that was left out.
    pub(crate) fn skip() -> Self {
        Self {
            skipped: 1,
            ..Self::default()
        }
    }

    /// One thing that passed.
    pub(crate) fn pass() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// Whether nothing ran at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed + self.failed == 0
    }

    /// Add another's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Take a line of a runner's output; only closing lines count. Tests that a runner filtered out are another tier's, so
    /// its own number of skipped ones says nothing.
    pub(crate) fn read(&mut self, line: &str) {
        // nextest shows a failed test's own closing line again, indented: it is in the summary already.
        let counts = if let Some(counts) = line.strip_prefix("test result: ") {
            counts.split_once(". ").map_or("", |(_, counts)| counts)
        } else if line.trim_start().starts_with("Summary [") {
            line.split_once(" run: ").map_or("", |(_, counts)| counts)
        } else {
            return;
        };
        for count in counts.split([';', ',']) {
            let mut words = count.split_whitespace();
            let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            match words.collect::<Vec<_>>().join(" ").split(" (").next() {
                Some("passed") => self.passed += number,
                Some(
                    "failed" | "timed out" | "exec failed" | "failed due to signal" | "aborted",
                ) => self.failed += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            text.push_str(&format!(", {} skipped", self.skipped));
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn both_runners_are_read_and_summed() {
        let tally = read(&[
            "     Summary [   0.147s] 8 tests run: 8 passed (1 slow), 4 skipped",
            "     Summary [   1.2s] 5/8 tests run: 3 passed, 1 failed, 1 timed out, 0 skipped",
            "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
        ]);
        assert_eq!(tally.to_string(), "14 passed, 4 failed");
    }

    #[test]
    fn other_lines_say_nothing() {
        assert!(read(&["test foo::passed ... ok", "3 passed", "warning: 2 failed"]).is_empty());
        let shown_again = "      test result: FAILED. 0 passed; 1 failed; 0 ignored";
        assert!(read(&[shown_again]).is_empty());
    }
}
