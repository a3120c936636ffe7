//! The emulated tree: a part of a configured document as the metadata server would show it. The document is what stands under
//! `/computeMetadata/v1`, with names as paths have them; a recursive read shows them in camelCase.
//! Must never: show a credential, whatever a document holds; who asks for one is not asking for a part of the tree.

use serde_json::{Map, Value};

use super::{Form, TreeAsk, vocabulary};

/// Why a part can't be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing there.
    #[error("the document has nothing under this path")]
    NotFound,
    /// A directory, asked for without the slash at its end.
    #[error("a directory has a slash at the end")]
    Moved,
}

/// The part of `document` at the canonical `path`.
///
/// # Errors
/// See [`Fault`].
pub fn render(document: &Value, ask: &TreeAsk, path: &str) -> Result<(Form, String), Fault> {
    let below = path
        .strip_prefix("/computeMetadata/v1")
        .ok_or(Fault::NotFound)?;
    let mut node = document;
    let mut at: Vec<&str> = vec![];
    for name in below.split('/').filter(|name| !name.is_empty()) {
        node = child(node, name, &at).ok_or(Fault::NotFound)?;
        at.push(name);
        if is_hidden(&at) {
            return Err(Fault::NotFound);
        }
    }
    match (is_directory(node), ask.slash) {
        (true, true) => Ok(directory(node, ask, &at)),
        (true, false) => Err(Fault::Moved),
        // A file isn't a directory.
        (false, true) => Err(Fault::NotFound),
        (false, false) => Ok(leaf(node, ask.form, &at)),
    }
}

fn directory(node: &Value, ask: &TreeAsk, at: &[&str]) -> (Form, String) {
    match (ask.recursive, ask.form) {
        (true, Some(Form::Text)) => {
            let mut lines = String::new();
            flatten(node, &mut at.to_vec(), at.len(), &mut lines);
            (Form::Text, lines)
        }
        (true, _) => (Form::Json, shown(node, &mut at.to_vec()).to_string()),
        (false, Some(Form::Json)) => {
            let names = Value::from(names(node, at));
            (Form::Json, names.to_string())
        }
        (false, _) => {
            let names: String = names(node, at).iter().map(|n| format!("{n}\n")).collect();
            (Form::Text, names)
        }
    }
}

fn leaf(node: &Value, form: Option<Form>, at: &[&str]) -> (Form, String) {
    // The real server writes tags as a JSON list whatever is asked for.
    if form == Some(Form::Json) || at == ["instance", "tags"] {
        return (Form::Json, node.to_string());
    }
    (Form::Text, text(node))
}

/// `recursive=true&alt=text`: a line for each leaf, its path and its value.
pub(super) fn flat(node: &Value) -> String {
    let mut lines = String::new();
    flatten(node, &mut vec![], 0, &mut lines);
    lines
}

fn flatten<'a>(node: &'a Value, at: &mut Vec<&'a str>, from: usize, lines: &mut String) {
    // An account's key of its own would be shown as the directory `0`; lists have no names to borrow.
    if let Value::Array(items) = node
        && is_directory(node)
    {
        for (index, item) in items.iter().enumerate() {
            let prefix = at[from..].join("/");
            let item = flat(item);
            for line in item.lines() {
                lines.push_str(&format!("{prefix}/{index}/{line}\n"));
            }
        }
        return;
    }
    let Value::Object(members) = node else {
        let path = at[from..].join("/");
        lines.push_str(&format!("{path} {}\n", text(node).trim_end()));
        return;
    };
    for (name, member) in members {
        at.push(name);
        if !is_hidden(at) {
            flatten(member, at, from, lines);
        }
        at.pop();
    }
}

fn child<'a>(node: &'a Value, name: &str, at: &[&str]) -> Option<&'a Value> {
    match node {
        Value::Object(members) => members.get(name).or_else(|| {
            if is_accounts(at) {
                by_email(members, name)
            } else {
                None
            }
        }),
        // Only the digits that the server itself would write: no `+1`, no `01`.
        Value::Array(items) if is_directory(node) => {
            let index: usize = name.parse().ok()?;
            (index.to_string() == name).then(|| items.get(index))?
        }
        _ => None,
    }
}

/// An account goes by its address as well as by `default`.
fn by_email<'a>(accounts: &'a Map<String, Value>, email: &str) -> Option<&'a Value> {
    let mut accounts = accounts.values();
    accounts.find(|account| account.get("email").and_then(Value::as_str) == Some(email))
}

/// Objects, and lists of more than values.
fn is_directory(node: &Value) -> bool {
    match node {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(Value::is_object),
        _ => false,
    }
}

fn is_accounts(at: &[&str]) -> bool {
    at == ["instance", "service-accounts"]
}

/// What a document can't give away by mistake.
fn is_hidden(at: &[&str]) -> bool {
    match at {
        ["instance", "service-accounts", _, "token" | "identity"] => true,
        ["instance", name] => vocabulary::KEYS.contains(name),
        _ => false,
    }
}

fn names(node: &Value, at: &[&str]) -> Vec<String> {
    let line = |name: &str, member: &Value| {
        let slash = if is_directory(member) { "/" } else { "" };
        format!("{name}{slash}")
    };
    let is_account = at.len() == 3 && is_accounts(&at[..2]);
    match node {
        Value::Object(members) => {
            let mut names: Vec<String> = members
                .iter()
                .filter(|(name, _)| !is_hidden(&[at, &[name.as_str()]].concat()))
                .map(|(name, member)| line(name, member))
                .collect();
            if is_account {
                names.extend(["identity".to_owned(), "token".to_owned()]);
                names.sort_unstable();
            }
            names
        }
        Value::Array(items) => (0..)
            .zip(items)
            .map(|(index, item): (u32, _)| line(&index.to_string(), item))
            .collect(),
        _ => vec![],
    }
}

/// As a recursive read shows it.
fn shown(node: &Value, at: &mut Vec<&str>) -> Value {
    match node {
        Value::Object(members) => {
            let own = keeps_names(at);
            let mut shown_members = Map::new();
            for (name, member) in members {
                let mut below = at.clone();
                below.push(name);
                if !is_hidden(&below) {
                    let name = if own { name.clone() } else { camel(name) };
                    shown_members.insert(name, shown(member, &mut below));
                }
            }
            Value::Object(shown_members)
        }
        Value::Array(items) => items.iter().map(|item| shown(item, at)).collect(),
        leaf => leaf.clone(),
    }
}

/// Whether the names below it are somebody's own and no field names.
fn keeps_names(at: &[&str]) -> bool {
    match at {
        ["project", "attributes"] => true,
        ["instance", name, ..] => {
            name.ends_with("attributes") || at == ["instance", "service-accounts"]
        }
        _ => false,
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// A value; of a list, one line each.
fn text(node: &Value) -> String {
    match node {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items
            .iter()
            .map(|item| format!("{}\n", text(item)))
            .collect(),
        other => other.to_string(),
    }
}
