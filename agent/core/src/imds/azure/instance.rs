//! `/metadata/instance` from a configured document, written as the service writes it: primitives as strings, members
//! that a version doesn't know yet left out, documented text members that the document lacks as `""`.
//! Must never: show a member of the document that the request's path doesn't cover.

use serde_json::{Map, Value};

use super::{ApiVersion, Format, InstanceAsk};

/// A rendered part of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// `application/json`
    Json(String),
    /// `text/plain`
    Text(String),
}

/// Why a part can't be rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstanceFault {
    /// Nothing there.
    #[error("the document has nothing under this path")]
    NotFound,
    /// A leaf, asked for as JSON.
    #[error("a leaf can only be read with format=text")]
    LeafNeedsText,
}

/// Version that introduced each member, for those that came after the first. `*` stands for any array index.
const SINCE: [(&str, ApiVersion); 37] = [
    ("compute/placementGroupId", ApiVersion::new(2017, 8, 1)),
    ("compute/resourceGroupName", ApiVersion::new(2017, 8, 1)),
    ("compute/subscriptionId", ApiVersion::new(2017, 8, 1)),
    ("compute/tags", ApiVersion::new(2017, 8, 1)),
    ("compute/vmScaleSetName", ApiVersion::new(2017, 12, 1)),
    ("compute/zone", ApiVersion::new(2017, 12, 1)),
    ("compute/plan", ApiVersion::new(2018, 4, 2)),
    ("compute/publicKeys", ApiVersion::new(2018, 4, 2)),
    ("compute/azEnvironment", ApiVersion::new(2018, 10, 1)),
    ("compute/provider", ApiVersion::new(2018, 10, 1)),
    ("compute/customData", ApiVersion::new(2019, 2, 1)),
    ("compute/resourceId", ApiVersion::new(2019, 3, 11)),
    ("compute/storageProfile", ApiVersion::new(2019, 6, 1)),
    ("compute/tagsList", ApiVersion::new(2019, 6, 4)),
    (
        "compute/isHostCompatibilityLayerVm",
        ApiVersion::new(2020, 6, 1),
    ),
    ("compute/securityProfile", ApiVersion::new(2020, 6, 1)),
    ("compute/osProfile", ApiVersion::new(2020, 7, 15)),
    ("compute/licenseType", ApiVersion::new(2020, 9, 1)),
    (
        "compute/osProfile/disablePasswordAuthentication",
        ApiVersion::new(2020, 10, 1),
    ),
    ("compute/evictionPolicy", ApiVersion::new(2020, 12, 1)),
    ("compute/priority", ApiVersion::new(2020, 12, 1)),
    ("compute/userData", ApiVersion::new(2021, 1, 1)),
    (
        "compute/storageProfile/resourceDisk",
        ApiVersion::new(2021, 2, 1),
    ),
    ("compute/extendedLocation", ApiVersion::new(2021, 3, 1)),
    (
        "compute/virtualMachineScaleSet",
        ApiVersion::new(2021, 3, 1),
    ),
    (
        "compute/storageProfile/dataDisks/*/bytesPerSecondThrottle",
        ApiVersion::new(2021, 5, 1),
    ),
    (
        "compute/storageProfile/dataDisks/*/diskCapacityBytes",
        ApiVersion::new(2021, 5, 1),
    ),
    (
        "compute/storageProfile/dataDisks/*/isSharedDisk",
        ApiVersion::new(2021, 5, 1),
    ),
    (
        "compute/storageProfile/dataDisks/*/isUltraDisk",
        ApiVersion::new(2021, 5, 1),
    ),
    (
        "compute/storageProfile/dataDisks/*/opsPerSecondThrottle",
        ApiVersion::new(2021, 5, 1),
    ),
    (
        "compute/platformSubFaultDomain",
        ApiVersion::new(2021, 10, 1),
    ),
    (
        "compute/additionalCapabilities",
        ApiVersion::new(2021, 11, 1),
    ),
    (
        "compute/securityProfile/encryptionAtHost",
        ApiVersion::new(2021, 11, 1),
    ),
    ("compute/host", ApiVersion::new(2021, 11, 15)),
    ("compute/hostGroup", ApiVersion::new(2021, 11, 15)),
    (
        "compute/securityProfile/securityType",
        ApiVersion::new(2021, 12, 13),
    ),
    ("compute/physicalZone", ApiVersion::new(2023, 11, 15)),
];

/// Members of `compute` whose value is text, and which the service shows as `""` where there is nothing to say.
const TEXT: [&str; 28] = [
    "azEnvironment",
    "customData",
    "evictionPolicy",
    "isHostCompatibilityLayerVm",
    "licenseType",
    "location",
    "name",
    "offer",
    "osType",
    "physicalZone",
    "placementGroupId",
    "platformFaultDomain",
    "platformSubFaultDomain",
    "platformUpdateDomain",
    "priority",
    "provider",
    "publisher",
    "resourceGroupName",
    "resourceId",
    "sku",
    "subscriptionId",
    "tags",
    "userData",
    "version",
    "vmId",
    "vmScaleSetName",
    "vmSize",
    "zone",
];

static EMPTY: Value = Value::Null;

/// Renders the part that was asked for. `document` is what stands under `/metadata/instance`.
///
/// # Errors
/// See [`InstanceFault`].
pub fn render(document: &Value, ask: &InstanceAsk) -> Result<Rendered, InstanceFault> {
    let mut at = Vec::new();
    let mut node = document;
    for name in &ask.path {
        node = child(node, name, &at).ok_or(InstanceFault::NotFound)?;
        at.push(name.as_str());
        if !shown(&at, ask.api_version) {
            return Err(InstanceFault::NotFound);
        }
    }
    match (ask.format, is_leaf(node)) {
        (Format::Json, true) => Err(InstanceFault::LeafNeedsText),
        (Format::Json, false) => {
            let mut json = String::with_capacity(2048);
            write(&mut json, node, &mut at, ask.api_version);
            Ok(Rendered::Json(json))
        }
        (Format::Text, true) => Ok(Rendered::Text(leaf_text(node))),
        (Format::Text, false) => Ok(Rendered::Text(listing(node, &mut at, ask.api_version))),
    }
}

/// The members that an object shows, in the order of their names.
fn members<'a>(object: &'a Map<String, Value>, at: &[&str]) -> Vec<(&'a str, &'a Value)> {
    let mut members: Vec<(&str, &Value)> = object.iter().map(|(n, v)| (n.as_str(), v)).collect();
    if at == ["compute"] {
        let missing = TEXT.iter().filter(|name| !object.contains_key(**name));
        members.extend(missing.map(|name| (*name, &EMPTY)));
        members.sort_unstable_by_key(|(name, _)| *name);
    }
    members
}

fn child<'a>(node: &'a Value, name: &str, at: &[&str]) -> Option<&'a Value> {
    match node {
        Value::Object(members) => members
            .get(name)
            .or_else(|| (at == ["compute"] && TEXT.contains(&name)).then_some(&EMPTY)),
        // Only the digits that the service itself would write: no `+1`, no `01`.
        Value::Array(items) => {
            let index: usize = name.parse().ok()?;
            (index.to_string() == name).then(|| items.get(index))?
        }
        _ => None,
    }
}

const fn is_leaf(node: &Value) -> bool {
    !matches!(node, Value::Object(_) | Value::Array(_))
}

fn shown(at: &[&str], version: ApiVersion) -> bool {
    !SINCE.iter().any(|(path, since)| {
        version < *since
            && path.split('/').count() == at.len()
            && path
                .split('/')
                .zip(at)
                .all(|(want, have)| want == *have || want == "*")
    })
}

fn leaf_text(node: &Value) -> String {
    match node {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn write<'a>(json: &mut String, node: &'a Value, at: &mut Vec<&'a str>, version: ApiVersion) {
    match node {
        Value::Object(object) => {
            json.push('{');
            let mut first = true;
            for (name, value) in members(object, at) {
                at.push(name);
                if shown(at, version) {
                    if !std::mem::take(&mut first) {
                        json.push(',');
                    }
                    write_text(json, name);
                    json.push(':');
                    write(json, value, at, version);
                }
                at.pop();
            }
            json.push('}');
        }
        Value::Array(items) => {
            json.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                at.push("*");
                write(json, item, at, version);
                at.pop();
            }
            json.push(']');
        }
        Value::String(text) => write_text(json, text),
        other => write_text(json, &leaf_text(other)),
    }
}

fn write_text(json: &mut String, text: &str) {
    json.push_str(&Value::from(text).to_string());
}

/// One name per line, a slash behind those with something below them (form unverified: the documentation shows none).
fn listing<'a>(node: &'a Value, at: &mut Vec<&'a str>, version: ApiVersion) -> String {
    let line = |name: &str, value: &Value| {
        let slash = if is_leaf(value) { "" } else { "/" };
        format!("{name}{slash}")
    };
    let lines: Vec<String> = match node {
        Value::Object(object) => members(object, at)
            .into_iter()
            .filter(|(name, _)| {
                at.push(name);
                let shown = shown(at, version);
                at.pop();
                shown
            })
            .map(|(name, value)| line(name, value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| line(&index.to_string(), value))
            .collect(),
        _ => vec![],
    };
    lines.join("\n")
}
