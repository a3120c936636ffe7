//! All that was measured, as a table or as JSON.

use crate::contest::Case;
use crate::figure::Figure;
use serde_json::{Value, json};
use std::fmt;

#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What has to be known to read it.
    pub(crate) notes: Vec<String>,
    pub(crate) cases: Vec<Case>,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn json(&self) -> Value {
        json!({
            "notes": self.notes,
            "cases": self.cases.iter().map(Case::json).collect::<Vec<_>>(),
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut title = String::new();
        if !self.cases.is_empty() {
            writeln!(f, "{}", Case::head())?;
        }
        for case in &self.cases {
            if title != case.title() {
                title = case.title();
                writeln!(f, "{title}")?;
            }
            writeln!(f, "{}", case.line())?;
        }
        if !self.figures.is_empty() {
            writeln!(f, "\n  {:<58} {:>24}", "", "median (min\u{2013}max)")?;
        }
        for figure in &self.figures {
            writeln!(f, "{}", figure.line())?;
        }
        writeln!(f)?;
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "  {note}"))
    }
}
