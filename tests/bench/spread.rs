//! A measured value: the median of its rounds, and how far they lay apart.

use serde_json::{Value, json};
use std::fmt;

/// Median, least and greatest of the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Self {
            median,
            min: at(0),
            max: at(values.len().saturating_sub(1)),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digits, width) = (f.precision().unwrap_or(2), f.width().unwrap_or(0));
        let Self { median, min, max } = self;
        // Not `pad`: there a precision cuts text off.
        let text = format!("{median:.digits$} ({min:.digits$}\u{2013}{max:.digits$})");
        write!(f, "{text:>width$}")
    }
}

/// What the issue asks of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// Whether the median is where it should be.
    pub(crate) fn met(self, value: &Spread) -> bool {
        match self {
            Self::AtLeast(least) => value.median >= least,
            Self::AtMost(most) => value.median <= most,
        }
    }

    /// `≥ 0.85 met`, `≤ 60 MISSED`.
    pub(crate) fn verdict(self, value: &Spread) -> String {
        format!("{self} {}", if self.met(value) { "met" } else { "MISSED" })
    }

    pub(crate) fn json(self, value: &Spread) -> Value {
        json!({ "aim": self.to_string(), "met": self.met(value) })
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "\u{2265} {least}"),
            Self::AtMost(most) => write!(f, "\u{2264} {most}"),
        }
    }
}
