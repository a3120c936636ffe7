//! Templates of the `sub` claim: `spiffe://{trust_domain}/host/{host}/workload/{workload}`, and of the names of AWS sessions,
//! `{workload}@{host}`, which have an alphabet of their own. Two callers that policy tells apart must never get one `sub`: values are escaped, and [`Template::ambiguous`] finds templates whose variables run
//! into each other. Never fills in a variable that the caller could choose (compile refuses those).

use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Variable(Arc<str>),
}

/// What a template makes, which says how values are escaped in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// A `sub` claim: percent-encoded.
    Subject,
    /// The name of an AWS session, `[\w+=,.@-]{2,64}`: as for a `sub`, with `=` in place of `%`, which isn't there.
    Session,
}

/// The longest name of an AWS session, in characters.
pub(crate) const SESSION_CHARS: usize = 64;

impl Alphabet {
    const fn mark(self) -> char {
        match self {
            Self::Subject => '%',
            Self::Session => '=',
        }
    }

    /// Whether an escaped value may hold this character. All others separate.
    const fn in_value(self, c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || c == self.mark()
    }

    /// Encodes whatever is not plain, so that no value can hold a separator; `.` and `..` would be path steps.
    pub(crate) fn escape(self, value: &str) -> String {
        use std::fmt::Write;
        let dots = self == Self::Subject && value.bytes().all(|b| b == b'.');
        let mut escaped = String::with_capacity(value.len());
        for byte in value.bytes() {
            let c = char::from(byte);
            if self.in_value(c) && c != self.mark() && !dots {
                escaped.push(c);
            } else {
                let _infallible = write!(escaped, "{}{byte:02X}", self.mark());
            }
        }
        escaped
    }

    /// Whether what a template made can be used.
    fn takes(self, text: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        match self {
            Self::Subject => true,
            Self::Session => (2..=SESSION_CHARS).contains(&text.len()) && text.bytes().all(plain),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    alphabet: Alphabet,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_in(Alphabet::Subject, text)
    }

    pub(crate) fn parse_in(alphabet: Alphabet, text: &str) -> Result<Self, String> {
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
        Ok(Self { parts, alphabet })
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name),
            Part::Literal(_) => None,
        })
    }

    /// Fills in the variables that `value` knows and leaves the others.
    pub(crate) fn fill(&self, value: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut parts: Vec<Part> = vec![];
        for part in &self.parts {
            let part = match part {
                Part::Variable(name) => match value(name) {
                    Some(value) => Part::Literal(self.alphabet.escape(&value)),
                    None => part.clone(),
                },
                Part::Literal(_) => part.clone(),
            };
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(after)) => before.push_str(&after),
                (_, part) => parts.push(part),
            }
        }
        let alphabet = self.alphabet;
        Self { parts, alphabet }
    }

    /// The text, once every variable is filled in, if it can be used.
    pub(crate) fn text(&self) -> Option<Arc<str>> {
        match &self.parts[..] {
            [Part::Literal(text)] if self.alphabet.takes(text) => Some(text.as_str().into()),
            _ => None,
        }
    }

    /// The same, also one that is too long or has what can't be there.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// As somebody would write it: what is open stands in braces.
    pub(crate) fn shown(&self) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Variable(name) => format!("{{{name}}}"),
        };
        self.parts.iter().map(part).collect()
    }

    /// What it comes out with at least: no value is empty.
    pub(crate) fn least_bytes(&self) -> usize {
        let bytes = |part: &Part| match part {
            Part::Literal(text) => text.len(),
            Part::Variable(_) => 1,
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Two variables with nothing between them that a value can't hold, if there are such.
    pub(crate) fn ambiguous(&self) -> Option<(&Arc<str>, &Arc<str>)> {
        let mut before: Option<&Arc<str>> = None;
        let separates = |c| !self.alphabet.in_value(c);
        for part in &self.parts {
            match part {
                Part::Literal(text) if text.chars().any(separates) => before = None,
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
        for part in &self.parts {
            match part {
                Part::Variable(_) => pieces
                    .last_mut()
                    .into_iter()
                    .for_each(|p: &mut Vec<_>| p.push(None)),
                Part::Literal(text) => {
                    for c in text.chars() {
                        if self.alphabet.in_value(c) {
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
    let head = |p: &[Option<char>]| {
        let first = p.first().copied().flatten();
        first.filter(|c| !Alphabet::Subject.in_value(*c))
    };
    head(a) == head(b)
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
        assert_eq!(Alphabet::Subject.escape(".."), "%2E%2E");
    }
}
