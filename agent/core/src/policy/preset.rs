//! Shipped policies for the platforms' own agents, included by name: `preset:azure-platform`. They are texts of the same
//! language, read by the same compiler; installing imds-guard includes none of them.

/// What an `include` that names a preset begins with.
pub(crate) const PREFIX: &str = "preset:";

const ALL: [(&str, &str); 3] = [
    ("azure-platform", include_str!("preset/azure-platform.toml")),
    ("aws-platform", include_str!("preset/aws-platform.toml")),
    ("gcp-platform", include_str!("preset/gcp-platform.toml")),
];

/// The text of a preset.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// Every preset's name.
pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}
