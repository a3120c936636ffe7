//! What the end of the audit file says, counted.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

/// How much of the file's end is read: some thousand lines, in a moment.
const TAIL: u64 = 1 << 20;

/// Lines at the end of the audit file, by how they ended; see `agent/docs/audit.md` for the words.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recent {
    /// The file.
    pub file: PathBuf,
    /// When the first of the counted lines was written, RFC 3339.
    pub since: Option<String>,
    /// Requests answered as policy allows.
    pub allowed: u64,
    /// Of these, what enforce mode would refuse.
    pub would_deny: u64,
    /// Requests that policy refused.
    pub denied: u64,
    /// Requests that ended otherwise: refused as no HTTP, throttled, failed, aborted.
    pub other: u64,
    /// Connections that were only noted.
    pub observed: u64,
}

/// Reads and counts.
pub(super) fn read(file: &Path) -> Result<Recent, String> {
    let text = tail(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut recent = Recent {
        file: file.to_owned(),
        ..Recent::default()
    };
    text.lines().for_each(|line| recent.count(line));
    Ok(recent)
}

/// Whole lines from the end of the file.
fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = File::open(file)?;
    let from = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![];
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is cut off, unless it is the file's first.
    let whole = if from == 0 {
        &*text
    } else {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    };
    Ok(whole.to_owned())
}

impl Recent {
    fn count(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return;
        };
        match (line["event"].as_str(), line["outcome"].as_str()) {
            (Some("exchange"), Some("allowed")) => {
                self.allowed += 1;
                self.would_deny += u64::from(!line["would_deny"].is_null());
            }
            (Some("exchange"), Some("denied")) => self.denied += 1,
            (Some("exchange"), _) => self.other += 1,
            (Some("observed"), _) => self.observed += 1,
            _ => return,
        }
        let time = line["time"].as_str().map(str::to_owned);
        self.since = self.since.take().or(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"event":"observed","time":"T1","mode":"observe"}
{"event":"exchange","time":"T2","outcome":"allowed"}
{"event":"exchange","time":"T3","outcome":"allowed","would_deny":{"reason":"no_workload","rule":null}}
{"event":"exchange","time":"T4","outcome":"denied"}
{"event":"exchange","time":"T5","outcome":"throttled"}
{"event":"signed","time":"T6"}
{"event":"exch"#;

    #[test]
    fn lines_are_counted_by_how_they_ended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        std::fs::write(&file, LINES).unwrap();
        let recent = read(&file).unwrap();
        assert_eq!(recent.since.as_deref(), Some("T1"));
        assert_eq!((recent.allowed, recent.would_deny), (2, 1));
        assert_eq!((recent.denied, recent.other, recent.observed), (1, 1, 1));
    }

    #[test]
    fn of_a_long_file_only_the_end_counts_and_no_half_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let line = r#"{"event":"exchange","outcome":"denied"}"#.to_owned() + "\n";
        let many = usize::try_from(TAIL).unwrap() / line.len() * 3;
        std::fs::write(&file, line.repeat(many)).unwrap();
        let denied = read(&file).unwrap().denied;
        assert_eq!(denied, TAIL / line.len() as u64);
        assert!(read(&folder.path().join("none")).is_err());
    }
}
