//! The line of an exchange that is like the last one in all but when it was and how long it took: written again around those
//! two, instead of from its fields. A line is about a kilobyte, and callers that poll make the same one over and over.

use std::io::Write;

use super::Exchange;

/// How each exchange's line begins, up to its time.
const BEGIN: &[u8] = br#"{"event":"exchange","time":""#;

/// What of a line does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// From the end of the time to the beginning of the latency.
    middle: Vec<u8>,
    /// The second that was printed last, and its text.
    second: (i64, Vec<u8>),
}

impl Repeated {
    /// Of `line`, as it was written for `exchange`. None where that line isn't made of its time, of what does not change, and
    /// of its latency: then it has to be written from its fields each time.
    pub fn of(line: &[u8], exchange: &Exchange<'_>) -> Option<Self> {
        let rest = line.strip_prefix(BEGIN)?;
        let rest = rest.strip_prefix(exchange.time.to_string().as_bytes())?;
        let end = format!("{}}}", exchange.latency_us);
        let middle = rest.strip_suffix(end.as_bytes())?;
        let whole = middle.starts_with(b"\",") && middle.ends_with(b"\"latency_us\":");
        whole.then(|| Self {
            middle: middle.to_vec(),
            second: (i64::MIN, Vec::new()),
        })
    }

    /// Appends the line of the same exchange at another time, without the line's end.
    pub fn write(&mut self, time: jiff::Timestamp, latency_us: u64, to: &mut Vec<u8>) {
        to.extend_from_slice(BEGIN);
        self.print(time, to);
        to.extend_from_slice(&self.middle);
        to.extend_from_slice(latency_us.to_string().as_bytes());
        to.push(b'}');
    }

    /// RFC 3339 with nine digits after the second, which is the only part that is new within a second.
    fn print(&mut self, time: jiff::Timestamp, to: &mut Vec<u8>) {
        let (second, nanosecond) = (time.as_second(), time.subsec_nanosecond());
        if second < 0 || nanosecond < 0 {
            // Before 1970 the digits count backwards: rare enough to be printed whole.
            to.extend_from_slice(time.to_string().as_bytes());
            return;
        }
        if self.second.0 != second {
            let text = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.second = (second, text.to_string().into_bytes());
            // Without the Z.
            self.second.1.pop();
        }
        to.extend_from_slice(&self.second.1);
        // Into memory: can't fail.
        drop(write!(to, ".{nanosecond:09}Z"));
    }
}
