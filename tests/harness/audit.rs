//! The audit file of a running agent, read as whoever watches it would: one JSON object per line.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A view of one audit file.
#[derive(Debug, Clone)]
pub struct AuditTail {
    file: PathBuf,
}

impl AuditTail {
    pub(crate) fn new(file: &Path) -> Self {
        Self {
            file: file.to_path_buf(),
        }
    }

    /// The records so far, in order.
    ///
    /// # Errors
    /// When a whole line isn't JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// The records of exchanges alone: one for each request of a caller. What the guard records beside them (signatures,
    /// observed connections) is left out.
    ///
    /// # Errors
    /// When a whole line isn't JSON.
    pub fn exchanges(&self) -> Result<Vec<Value>> {
        let mut records = self.records()?;
        records.retain(|record| record["event"] == "exchange");
        Ok(records)
    }

    /// The records, once there are at least `count` (writes are batched: at most 5 s).
    ///
    /// # Errors
    /// When they don't come.
    pub fn wait(&self, count: usize) -> Result<Vec<Value>> {
        until(count, || self.records())
    }

    /// The exchanges, once there are at least `count`.
    ///
    /// # Errors
    /// When they don't come.
    pub fn wait_exchanges(&self, count: usize) -> Result<Vec<Value>> {
        until(count, || self.exchanges())
    }
}

fn until(count: usize, records: impl Fn() -> Result<Vec<Value>>) -> Result<Vec<Value>> {
    let deadline = Instant::now() + crate::patience(Duration::from_secs(5));
    loop {
        let records = records()?;
        if records.len() >= count {
            return Ok(records);
        }
        if Instant::now() > deadline {
            bail!("{} audit records, waited for {count}", records.len());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
