//! What a machine reported, read line by line. No end line: it died, whatever it said before.

use crate::test::Tally;

/// Tests of one machine.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) passed: u64,
    pub(super) failed: Vec<String>,
    pub(super) left_out: u64,
    /// Whether it came to its end.
    pub(super) ended: bool,
    /// When its tests began: hundredths of a second on its own clock.
    pub(super) booted: u64,
    /// Name and hundredths of a second.
    pub(super) slow: Vec<(String, u64)>,
    /// What failed tests said.
    pub(super) said: Vec<String>,
}

impl Verdict {
    /// Read the report of a machine that was to run what begins as `chosen` says, or everything where that is empty. What was
    /// chosen and isn't there has failed: a test that was renamed must not vanish.
    pub(super) fn read(report: &str, chosen: &[&str]) -> Self {
        let mut verdict = Self::default();
        for line in report.lines().filter_map(|line| line.strip_prefix("VM ")) {
            verdict.line(line);
        }
        verdict
            .slow
            .sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let missing = |begins: &&&str| {
            let passed = verdict.slow.iter().map(|(name, _)| name);
            let mut all = passed.chain(&verdict.failed);
            !all.any(|name| name.starts_with(**begins))
        };
        let absent: Vec<String> = chosen
            .iter()
            .filter(missing)
            .map(|begins| format!("{begins}* (nothing ran of it)"))
            .collect();
        verdict
            .said
            .extend(absent.iter().map(|name| format!("failed {name}")));
        verdict.failed.extend(absent);
        verdict
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["passed", suite, name, took] => {
                self.passed += 1;
                self.slow
                    .push((format!("{suite} {name}"), took.parse().unwrap_or(0)));
            }
            ["failed", suite, name, ..] => {
                self.failed.push(format!("{suite} {name}"));
                self.said.push(line.to_owned());
            }
            ["again", ..] => self.said.push(line.to_owned()),
            ["left-out", ..] => self.left_out += 1,
            ["booted", at] => self.booted = at.parse().unwrap_or(0),
            ["end", _] => self.ended = true,
            ["|", ..] => self.said.push(line.to_owned()),
            _ => {}
        }
    }

    /// Seconds that a suite's passed tests took.
    pub(super) fn took(&self, suite: &str) -> u64 {
        let of_it = |(name, _): &&(String, u64)| name.split(' ').next() == Some(suite);
        let all = self.slow.iter().filter(of_it);
        all.map(|(_, took)| took).sum::<u64>() / 100
    }

    /// For the closing line of all tiers. A machine that reported nothing is one failure.
    pub(super) fn tally(&self) -> Tally {
        let died = u64::from(!self.ended || (self.passed == 0 && self.failed.is_empty()));
        Tally {
            passed: self.passed,
            failed: self.failed.len() as u64 + died,
            skipped: self.left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "noise\nVM booted 300\nVM passed kernel a::b 12\nVM again kernel a::b (101)\nVM failed kernel c 300 (101)\nVM | it broke\nVM left-out kernel d\n";

    #[test]
    fn tests_are_counted_and_a_machine_without_an_end_has_failed() {
        let verdict = Verdict::read(REPORT, &["kernel a"]);
        let tally = verdict.tally();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 2, 1));
        let whole = Verdict::read(&format!("{REPORT}VM end 999\n"), &[]);
        assert_eq!(whole.tally().failed, 1);
        assert_eq!(whole.failed, ["kernel c"]);
        assert_eq!(whole.said.len(), 3);
        assert_eq!((whole.booted, whole.took("kernel")), (300, 0));
    }

    #[test]
    fn what_was_chosen_and_did_not_run_has_failed() {
        let report = format!("{REPORT}VM end 999\n");
        let verdict = Verdict::read(&report, &["kernel a::", "kernel c", "kernel d"]);
        assert_eq!(
            verdict.failed,
            ["kernel c", "kernel d* (nothing ran of it)"]
        );
    }

    #[test]
    fn a_machine_that_ran_nothing_has_failed() {
        assert_eq!(Verdict::read("VM end 1\n", &[]).tally().failed, 1);
        assert_eq!(Verdict::read("", &[]).tally().failed, 1);
    }
}
