//! One load by wrk, and what it says of it.

use crate::place::Place;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// How the caller uses connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Many requests on each.
    Kept,
    /// One request on each.
    New,
}

impl Connection {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept alive",
            Self::New => "new connection",
        }
    }
}

/// A load to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) url: &'a str,
    pub(crate) connection: Connection,
    pub(crate) connections: usize,
    pub(crate) seconds: u32,
}

/// What came of one load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Latency at the median, in microseconds, from the first byte of the request to the last of the answer.
    pub(crate) p50: f64,
    /// Latency of the slowest hundredth.
    pub(crate) p99: f64,
    /// CPU time of the serving processes for each request, in microseconds.
    pub(crate) cpu: f64,
}

/// Prints what is measured in a form that we can read, times in microseconds.
const REPORT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("measured %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// Makes each request one for a session token.
const PUT: &str = r#"wrk.method = "PUT"
wrk.headers["X-aws-ec2-metadata-token-ttl-seconds"] = "21600"
"#;

/// The script for wrk, where every user of the world can read it.
pub(crate) fn script(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("bin/report.lua");
    fs::write(&path, REPORT)?;
    Ok(path)
}

/// The same for session tokens.
pub(crate) fn put_script(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("bin/put.lua");
    fs::write(&path, format!("{PUT}{REPORT}"))?;
    Ok(path)
}

impl Load<'_> {
    /// Make it from `place`, on servers that are `pids`. A single failed request fails the bench: a refusal is fast.
    pub(crate) fn measure(
        &self,
        place: &Place<'_>,
        script: &Path,
        pids: &[u32],
    ) -> Result<Measured> {
        let (connections, duration) = (self.connections.to_string(), format!("{}s", self.seconds));
        let script = script.to_string_lossy();
        let mut arguments = vec!["-t1", "-c", &connections, "-d", &duration, "-s", &script];
        arguments.extend(["-H", "Metadata: true"]);
        if self.connection == Connection::New {
            arguments.extend(["-H", "Connection: close"]);
        }
        arguments.push(self.url);
        let before = crate::usage::cpu_us(pids)?;
        let output = place.run("wrk", &arguments)?;
        let used = crate::usage::cpu_us(pids)? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers = text.lines().find_map(|line| line.strip_prefix("measured "));
        let numbers: Vec<f64> = numbers
            .with_context(|| format!("wrk said nothing: {text}"))?
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [requests, us, p50, p99, failed] = numbers[..] else {
            anyhow::bail!("wrk said something else: {text}")
        };
        ensure!(
            failed == 0.0,
            "{failed} of {requests} requests to {} failed:\n{text}",
            self.url
        );
        ensure!(requests > 0.0, "no request to {} was answered", self.url);
        Ok(Measured {
            rate: requests / us * 1e6,
            p50,
            p99,
            cpu: used / requests,
        })
    }
}

/// A server under load.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    pub(crate) place: Place<'a>,
    pub(crate) url: String,
    pub(crate) pids: Vec<u32>,
    /// In place of the usual script.
    pub(crate) script: Option<PathBuf>,
}
