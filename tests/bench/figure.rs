//! One measured figure that stands for itself: what, how much, and what was asked.

use crate::spread::{Aim, Spread};
use serde_json::{Value, json};

#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) value: Spread,
    pub(crate) aim: Option<Aim>,
}

impl Figure {
    pub(crate) fn line(&self) -> String {
        let value = format!("{:.1}", self.value);
        let verdict = self
            .aim
            .map_or_else(|| "\u{2013}".into(), |aim| aim.verdict(&self.value));
        format!("  {:<58} {value:>24} {:<9} {verdict}", self.what, self.unit)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "what": self.what, "unit": self.unit, "value": self.value.json(), "judged": self.aim.map(|a| a.json(&self.value)) })
    }
}
