//! The licences of what is linked into the program: their texts have to come with it. Each text once, with whom it is of.

use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A crate that is linked in.
struct Linked {
    name: String,
    licence: String,
    /// Contents of its licence files.
    texts: Vec<String>,
}

/// All of them, as one text.
pub(super) fn collect(triple: &str) -> Result<String> {
    let arguments = [
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        triple,
    ];
    let said = process::output("cargo", &arguments).context("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&said)?;
    let linked = linked(&metadata, "imds-guard");
    let packages = metadata["packages"].as_array().context("no packages")?;
    let theirs = packages.iter().filter(|package| {
        linked.contains(package["id"].as_str().unwrap_or_default()) && !package["source"].is_null()
    });
    let all = theirs.map(read).collect::<Result<Vec<_>>>()?;
    Ok(told(&all))
}

/// Ids of what a workspace member links: its dependencies that are neither for building nor for testing, and theirs.
fn linked<'m>(metadata: &'m Value, member: &str) -> BTreeSet<&'m str> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let nodes: BTreeMap<&str, &Value> = nodes
        .into_iter()
        .flatten()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let first = packages.filter(|p| p["name"] == member && p["source"].is_null());
    let mut open: Vec<&str> = first.filter_map(|p| p["id"].as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !found.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).and_then(|node| node["deps"].as_array());
        let linked = dependencies.into_iter().flatten().filter(|dependency| {
            let kinds = dependency["dep_kinds"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        });
        open.extend(linked.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    found
}

fn read(package: &Value) -> Result<Linked> {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let manifest = text("manifest_path");
    let folder = Path::new(&manifest).parent().context("no folder")?;
    let mut texts = vec![];
    let mut files: Vec<_> = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        if ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"]
            .iter()
            .any(|word| name.starts_with(word))
        {
            texts.push(String::from_utf8_lossy(&fs::read(file)?).trim().to_owned());
        }
    }
    Ok(Linked {
        name: format!("{} {}", text("name"), text("version")),
        licence: text("license"),
        texts,
    })
}

fn told(all: &[Linked]) -> String {
    let mut out = "imds-guard is linked with these crates.\n\n".to_owned();
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for linked in all {
        let _infallible = writeln!(out, "{}: {}", linked.name, linked.licence);
        for text in &linked.texts {
            of.entry(text).or_default().push(&linked.name);
        }
    }
    for (text, names) in of {
        let line = "=".repeat(80);
        let _infallible = writeln!(out, "\n{line}\nOf {}:\n\n{text}", names.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_builds_or_tests_is_not_linked_and_texts_come_once() {
        let dependency =
            |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [{ "name": "ours", "id": "ours", "source": null }],
            "resolve": { "nodes": [
                { "id": "ours", "deps": [dependency("a", Value::Null), dependency("b", json!("build")), dependency("c", json!("dev"))] },
                { "id": "a", "deps": [dependency("d", Value::Null)] },
            ] }
        });
        assert_eq!(linked(&metadata, "ours"), ["a", "d", "ours"].into());
        let of = |name: &str| Linked {
            name: name.into(),
            licence: "MIT".into(),
            texts: vec!["Permission".into()],
        };
        let text = told(&[of("a 1"), of("d 2")]);
        assert_eq!(text.matches("Permission").count(), 1);
        assert!(text.contains("Of a 1, d 2:"), "{text}");
    }
}
