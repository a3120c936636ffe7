//! Templates of the `sub` claim: `spiffe://{trust_domain}/host/{host}/workload/{workload}`. Two callers that policy tells
//! apart must never get one `sub`: values are escaped, and [`Template::ambiguous`] finds templates whose variables run
//! into each other. Never fills in a variable that the caller could choose (compile refuses those).

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Variable(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(pub(crate) Vec<Part>);

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = vec![];
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("close the brace: {variable}")?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                return Err(format!(
                    "name the variable with lower-case letters, not {{{name}}}"
                ));
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(Part::Variable(name.into()));
            rest = after;
        }
        if rest.contains('}') {
            return Err("a closing brace has no opening one".into());
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name),
            Part::Literal(_) => None,
        })
    }

    /// Fills in the variables that `value` knows and leaves the others.
    pub(crate) fn fill(&self, value: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut parts: Vec<Part> = vec![];
        for part in &self.0 {
            let part = match part {
                Part::Variable(name) => match value(name) {
                    Some(value) => Part::Literal(escape(&value)),
                    None => part.clone(),
                },
                Part::Literal(_) => part.clone(),
            };
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(after)) => before.push_str(&after),
                (_, part) => parts.push(part),
            }
        }
        Self(parts)
    }

    /// The text, once every variable is filled in.
    pub(crate) fn text(&self) -> Option<Arc<str>> {
        match &self.0[..] {
            [Part::Literal(text)] => Some(text.as_str().into()),
            _ => None,
        }
    }

    /// What it comes out with at least: no value is empty.
    pub(crate) fn least_bytes(&self) -> usize {
        let bytes = |part: &Part| match part {
            Part::Literal(text) => text.len(),
            Part::Variable(_) => 1,
        };
        self.0.iter().map(bytes).sum()
    }

    /// Two variables with nothing between them that a value can't hold, if there are such.
    pub(crate) fn ambiguous(&self) -> Option<(&Arc<str>, &Arc<str>)> {
        let mut before: Option<&Arc<str>> = None;
        for part in &self.0 {
            match part {
                Part::Literal(text) if text.chars().any(|c| !in_value(c)) => before = None,
                Part::Literal(_) => {}
                Part::Variable(name) => {
                    if let Some(before) = before {
                        return Some((before, name));
                    }
                    before = Some(name);
                }
            }
        }
        None
    }

    /// Whether some values make both the same text. Errs towards yes.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let (a, b) = (self.pieces(), other.pieces());
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| piece_meets(a, b))
    }

    /// Cut at the characters that no value holds; a `None` inside stands for a variable.
    fn pieces(&self) -> Vec<Vec<Option<char>>> {
        let mut pieces = vec![vec![]];
        for part in &self.0 {
            match part {
                Part::Variable(_) => pieces
                    .last_mut()
                    .into_iter()
                    .for_each(|p: &mut Vec<_>| p.push(None)),
                Part::Literal(text) => {
                    for c in text.chars() {
                        if in_value(c) {
                            pieces.last_mut().into_iter().for_each(|p| p.push(Some(c)));
                        } else {
                            pieces.push(vec![Some(c)]);
                        }
                    }
                }
            }
        }
        pieces
    }
}

fn piece_meets(a: &[Option<char>], b: &[Option<char>]) -> bool {
    let variable = |piece: &[Option<char>]| piece.contains(&None);
    if !variable(a) && !variable(b) {
        return a == b;
    }
    // Their separator, where they have one, must be the same; a variable then takes anything that isn't empty.
    let head = |p: &[Option<char>]| p.first().copied().flatten().filter(|c| !in_value(*c));
    head(a) == head(b)
}

/// Whether an escaped value may hold this character. All others separate.
fn in_value(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '%')
}

/// Percent-encodes whatever is not plain, so that no value can hold a separator; `.` and `..` would be path steps.
pub(crate) fn escape(value: &str) -> String {
    use std::fmt::Write;
    let dots = value.bytes().all(|b| b == b'.');
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if in_value(char::from(byte)) && byte != b'%' && !dots {
            escaped.push(char::from(byte));
        } else {
            let _infallible = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_must_be_apart() {
        let template = |text| Template::parse(text).unwrap();
        assert!(template("a/{x}/{y}").ambiguous().is_none());
        assert!(template("a/{x}-{y}").ambiguous().is_some());
        assert!(template("{x}{y}").ambiguous().is_some());
        assert!(template("{x}/{y}").meets(&template("a/b")));
        assert!(!template("{x}/y").meets(&template("a/b")));
        assert!(!template("{x}").meets(&template("a/b")));
    }

    #[test]
    fn values_are_escaped() {
        let filled = Template::parse("w/{x}")
            .unwrap()
            .fill(&|_| Some("a/b%é".into()));
        assert_eq!(&*filled.text().unwrap(), "w/a%2Fb%25%C3%A9");
        assert_eq!(escape(".."), "%2E%2E");
    }
}
