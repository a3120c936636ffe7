//! Reading one TOML table key by key, collecting every complaint: wrong type, missing key, unknown key with the nearest
//! known one. Knows nothing of policy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Place, Severity};
use super::document::{At, Text};

/// Where complaints go, and which source is being read.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) source: usize,
    pub(crate) diagnostics: RefCell<Vec<Diagnostic>>,
}

impl Reader {
    pub(crate) fn place(&self, bytes: Range<usize>) -> Place {
        Place {
            source: self.source,
            bytes,
        }
    }

    pub(crate) fn error(&self, bytes: Range<usize>, title: String, help: String) {
        self.diagnostics.borrow_mut().push(Diagnostic {
            severity: Severity::Error,
            place: self.place(bytes),
            title,
            help,
        });
    }
}

/// One table, and which of its keys somebody has asked for.
pub(crate) struct Fields<'a, 'i> {
    pub(crate) reader: &'a Reader,
    table: &'a DeTable<'i>,
    pub(crate) span: Range<usize>,
    what: &'a str,
    known: RefCell<Vec<&'static str>>,
}

type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

impl<'a, 'i> Fields<'a, 'i> {
    pub(crate) fn new(
        reader: &'a Reader,
        table: &'a DeTable<'i>,
        span: Range<usize>,
        what: &'a str,
    ) -> Self {
        Self {
            reader,
            table,
            span,
            what,
            known: RefCell::default(),
        }
    }

    /// The fields of a value that has to be a table.
    pub(crate) fn of(reader: &'a Reader, value: Value<'a, 'i>, what: &'a str) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::new(reader, table, value.span(), what)),
            other => {
                let title = format!("{what} is a table, not {}", other.type_str());
                let help = format!("write its keys: {what} {{ key = value, … }}");
                reader.error(value.span(), title, help);
                None
            }
        }
    }

    pub(crate) fn get(&self, key: &'static str) -> Option<Value<'a, 'i>> {
        self.known.borrow_mut().push(key);
        self.table
            .iter()
            .find(|(k, _)| k.get_ref() == key)
            .map(|(_, v)| v)
    }

    fn wrong(&self, value: Value<'_, '_>, key: &str, want: &str, example: &str) {
        let found = value.get_ref().type_str();
        self.reader.error(
            value.span(),
            format!("`{key}` wants {want}, and this is a value of type {found}"),
            format!("write {key} = {example}"),
        );
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<Text> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.at(value.span(), Arc::from(&**text))),
            _ => {
                self.wrong(value, key, "a string", "\"…\"");
                None
            }
        }
    }

    /// A string, or a TOML date, which the reader of the file may leave without quotes.
    pub(crate) fn date(&self, key: &'static str) -> Option<Text> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.at(value.span(), Arc::from(&**text))),
            DeValue::Datetime(date) => Some(self.at(value.span(), date.to_string().into())),
            _ => {
                self.wrong(value, key, "a date", "\"2027-01-01\"");
                None
            }
        }
    }

    pub(crate) fn required(&self, key: &'static str, example: &str) -> Option<Text> {
        self.demand(key, example);
        self.text(key)
    }

    /// Complains where a key is missing.
    pub(crate) fn demand(&self, key: &'static str, example: &str) {
        if self.get(key).is_none() {
            self.reader.error(
                self.span.clone(),
                format!("{} has no `{key}`", self.what),
                format!("add {key} = {example}"),
            );
        }
    }

    pub(crate) fn flag(&self, key: &'static str) -> Option<At<bool>> {
        let value = self.get(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(self.at(value.span(), *flag));
        }
        self.wrong(value, key, "true or false", "true");
        None
    }

    pub(crate) fn number(&self, key: &'static str) -> Option<At<i64>> {
        let value = self.get(key)?;
        if let DeValue::Integer(number) = value.get_ref()
            && let Ok(number) = i64::from_str_radix(number.as_str(), number.radix())
        {
            return Some(self.at(value.span(), number));
        }
        self.wrong(value, key, "a whole number", "1024");
        None
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        let text = self.text(key)?;
        self.choose(&text, key, words)
    }

    pub(crate) fn choose<T: Copy>(
        &self,
        text: &Text,
        key: &str,
        words: &[(&str, T)],
    ) -> Option<At<T>> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == &*text.value) {
            return Some(self.at(text.place.bytes.clone(), *value));
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.reader.error(
            text.place.bytes.clone(),
            format!("`{}` is not a {key}", text.value),
            format!(
                "{}write one of: {}",
                meant(&text.value, &known),
                known.join(", ")
            ),
        );
        None
    }

    pub(crate) fn array(&self, key: &'static str) -> Option<(Range<usize>, Vec<Value<'a, 'i>>)> {
        let value = self.get(key)?;
        if let DeValue::Array(array) = value.get_ref() {
            return Some((value.span(), array.iter().collect()));
        }
        self.wrong(value, key, "a list", "[…]");
        None
    }

    /// A list of strings with the list's own place, or none where the key isn't written.
    pub(crate) fn list(&self, key: &'static str) -> Option<At<Vec<Text>>> {
        let (span, values) = self.array(key)?;
        Some(self.at(span, self.texts(key, &values)))
    }

    pub(crate) fn texts(&self, key: &str, values: &[Value<'a, 'i>]) -> Vec<Text> {
        let text = |value: &Value<'a, 'i>| match value.get_ref() {
            DeValue::String(text) => Some(self.at(value.span(), Arc::from(&**text))),
            _ => {
                self.wrong(value, key, "strings", "[\"…\"]");
                None
            }
        };
        values.iter().filter_map(text).collect()
    }

    /// The entries of a table of tables, `[key.NAME]`, or of a table of values.
    pub(crate) fn entries(&self, key: &'static str) -> Vec<(Text, Value<'a, 'i>)> {
        let Some(value) = self.get(key) else {
            return vec![];
        };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(value, key, "a table", "{ … }");
            return vec![];
        };
        let name = |k: &Spanned<_>| {
            let name: &std::borrow::Cow<'_, str> = k.get_ref();
            self.at(k.span(), Arc::from(&**name))
        };
        let mut entries: Vec<_> = table.iter().map(|(k, v)| (name(k), v)).collect();
        entries.sort_by_key(|(name, _)| name.place.bytes.start);
        entries
    }

    pub(crate) fn string_map(&self, key: &'static str) -> BTreeMap<Arc<str>, Text> {
        let entries = self.entries(key);
        let text = |(name, value): (Text, Value<'a, 'i>)| {
            let text = self.texts(key, &[value]).pop()?;
            Some((name.value, text))
        };
        entries.into_iter().filter_map(text).collect()
    }

    /// A value as JSON, for documents and session policies.
    pub(crate) fn json(&self, key: &'static str) -> Option<At<serde_json::Value>> {
        let value = self.get(key)?;
        Some(self.at(value.span(), json(value.get_ref())))
    }

    pub(crate) fn at<T>(&self, bytes: Range<usize>, value: T) -> At<T> {
        At {
            value,
            place: self.reader.place(bytes),
        }
    }

    /// Complains about every key that nobody asked for.
    pub(crate) fn finish(self) {
        let known = self.known.into_inner();
        let mut names = known.clone();
        names.sort_unstable();
        names.dedup();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                self.reader.error(
                    key.span(),
                    format!("{} has no key `{name}`", self.what),
                    format!("{}its keys are: {}", meant(name, &names), names.join(", ")),
                );
            }
        }
    }
}

fn json(value: &DeValue<'_>) -> serde_json::Value {
    use serde_json::Value;
    match value {
        DeValue::String(text) => Value::from(&**text),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(n) => n.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Array(array) => array.iter().map(|v| json(v.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(k, v)| (k.get_ref().to_string(), json(v.get_ref())))
            .collect(),
    }
}

/// "did you mean …? ", or nothing where no known name is near.
pub(crate) fn meant(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|k| (distance(name, k), k)).min();
    match nearest {
        Some((far, k)) if far <= 1 + name.len() / 4 => format!("did you mean `{k}`? "),
        _ => String::new(),
    }
}

/// Edit distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
