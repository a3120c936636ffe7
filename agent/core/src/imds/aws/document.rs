//! The emulated tree: a part of a configured document as the metadata service would show it.
//! Must never: show a credential, whatever a document holds; who asks for one is not asking for a part of the tree.

use serde_json::Value;

use super::TreeAsk;
use super::version;

/// A rendered part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// `text/plain`
    Text(String),
    /// `application/octet-stream`: user data.
    Octets(String),
}

/// The part of `document`, which is what stands under a version, at the canonical `path`. None where there is nothing.
pub fn render(document: &Value, ask: &TreeAsk, path: &str) -> Option<Rendered> {
    let Some(below) = path.strip_prefix("/latest") else {
        let mut versions = version::KNOWN.join("\n");
        versions.push_str("\nlatest");
        return Some(Rendered::Text(versions));
    };
    if !version::is_known(&ask.version) {
        return None;
    }
    let mut node = document;
    for name in below.split('/').filter(|name| !name.is_empty()) {
        node = child(node, name)?;
    }
    if below == "/user-data" {
        return leaf(node).map(Rendered::Octets);
    }
    let text = if is_json(below) {
        json(node)
    } else {
        leaf(node).or_else(|| listing(node))
    };
    text.map(Rendered::Text)
}

/// Parts that are JSON themselves, and not containers.
fn is_json(path: &str) -> bool {
    matches!(
        path,
        "/dynamic/instance-identity/document"
            | "/meta-data/iam/info"
            | "/meta-data/identity-credentials/ec2/info"
            | "/meta-data/spot/instance-action"
    )
}

/// Of `public-keys`, whose members are called `0=my-key`, by their number.
fn child<'a>(node: &'a Value, name: &str) -> Option<&'a Value> {
    let members = node.as_object()?;
    members.get(name).or_else(|| {
        let numbered = |key: &str| {
            key.split_once('=')
                .is_some_and(|(number, _)| number == name)
        };
        let found = members.iter().find(|(key, _)| numbered(key));
        found.map(|(_, value)| value)
    })
}

fn leaf(node: &Value) -> Option<String> {
    match node {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Object(_) | Value::Array(_) => None,
    }
}

/// A text stays as it was written, to the byte: signatures are over it.
fn json(node: &Value) -> Option<String> {
    match node {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => serde_json::to_string_pretty(other).ok(),
    }
}

/// One name a line, a slash behind those with something below, nothing behind the last: the Rust SDK panics at a newline.
fn listing(node: &Value) -> Option<String> {
    let members = node.as_object().filter(|members| !members.is_empty())?;
    let lines = members.iter().map(|(name, value)| {
        let container = value.is_object() && !name.contains('=') && !is_leaf_object(name);
        format!("{name}{}", if container { "/" } else { "" })
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// Names whose objects are shown as JSON.
fn is_leaf_object(name: &str) -> bool {
    matches!(name, "document" | "info" | "instance-action")
}
