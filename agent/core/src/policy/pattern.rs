//! Patterns: of selectors (`systemd:id:x`, `cgroup:path:/system.slice/**`, `k8s:ns:{ns}`) and of metadata paths
//! (`azure:/metadata/instance/**`). One text for one pattern: what isn't canonical is refused with the canonical form,
//! so that no two spellings of a deny differ. Never interprets more than whole segments.

use std::collections::HashMap;
use std::sync::Arc;

use crate::request::Cloud;
use crate::selector::Key;

/// A selector in policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SelectorPattern {
    pub(crate) key: Key,
    pub(crate) value: ValuePattern,
    pub(crate) text: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValuePattern {
    Exact(Arc<str>),
    /// Whole-segment globs over a path.
    Glob(PathPattern),
    /// `prefix{name}suffix`: binds the name.
    Variable {
        prefix: Arc<str>,
        name: Arc<str>,
        suffix: Arc<str>,
    },
}

impl SelectorPattern {
    /// Reads a selector; the error says what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, String)> {
        let Some((key, value)) = Key::split(text) else {
            return Err((
                format!("`{text}` is not a selector"),
                remedy_for_selector(text),
            ));
        };
        let value = if value.contains(['{', '}']) {
            variable(key, value)?
        } else if key.is_path() {
            let pattern = PathPattern::parse(value)?;
            if pattern.is_exact() {
                ValuePattern::Exact(value.into())
            } else {
                ValuePattern::Glob(pattern)
            }
        } else if value.contains('*') {
            return Err((
                format!("`{key}` takes no wildcard"),
                "globs are for cgroup:path and unix:path; list the values with any_of".into(),
            ));
        } else {
            never_a_value(key, value)?;
            ValuePattern::Exact(value.into())
        };
        Ok(Self {
            key,
            value,
            text: text.into(),
        })
    }

    /// Whether one of these values satisfies it; binds a variable, and then only to the value it already has.
    pub(crate) fn matches(&self, values: &[Arc<str>], bound: &mut Bindings) -> bool {
        values.iter().any(|value| match &self.value {
            ValuePattern::Exact(exact) => exact == value,
            ValuePattern::Glob(pattern) => pattern.covers(value, false),
            ValuePattern::Variable {
                prefix,
                name,
                suffix,
            } => strip(value, prefix, suffix).is_some_and(|inner| bound.bind(name, inner)),
        })
    }
}

/// What no process has: an allow that rests on it is for nobody, and a deny denies nobody, which is worse.
fn never_a_value(key: Key, value: &str) -> Result<(), (String, String)> {
    let by_name = match key {
        Key::UnixUid => "unix:user",
        Key::UnixGid => "unix:group",
        Key::UnixSupplementaryGid => "unix:supplementary_group",
        Key::UnixSha256 => {
            let hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
            return if value.len() == 64 && value.bytes().all(hex) {
                Ok(())
            } else {
                let help = "write what `sha256sum FILE` prints: 64 digits, in lower case";
                Err((format!("`{value}` is no SHA-256"), help.into()))
            };
        }
        _ => return Ok(()),
    };
    // As the kernel's number is written, and in no other way.
    if value.parse::<u32>().is_ok_and(|id| id.to_string() == value) {
        Ok(())
    } else {
        let help = format!("write the number, or `{by_name}:{value}` where that is a name");
        Err((format!("`{value}` is no id: `{key}` takes a number"), help))
    }
}

/// The values that a template's variables took for one caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bindings(pub(crate) Vec<(Arc<str>, Arc<str>)>);

impl Bindings {
    fn bind(&mut self, name: &Arc<str>, value: &str) -> bool {
        if let Some((_, old)) = self.0.iter().find(|(n, _)| n == name) {
            return &**old == value;
        }
        self.0.push((name.clone(), value.into()));
        true
    }
}

fn strip<'a>(value: &'a str, prefix: &str, suffix: &str) -> Option<&'a str> {
    let inner = value.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (!inner.is_empty()).then_some(inner)
}

fn variable(key: Key, value: &str) -> Result<ValuePattern, (String, String)> {
    let parts = value.split_once('{').and_then(|(prefix, rest)| {
        let (name, suffix) = rest.split_once('}')?;
        let plain = !suffix.contains(['{', '}']) && !prefix.contains('}');
        let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (plain && named).then_some((prefix, name, suffix))
    });
    let Some((prefix, name, suffix)) = parts else {
        return Err((
            format!("`{value}` is not a template"),
            "write one variable of lower-case letters in braces, for example k8s:ns:{ns}".into(),
        ));
    };
    if key.many() {
        return Err((
            format!("`{key}` can't bind {{{name}}}: one caller may have several of them"),
            "bind the variable by a selector that a caller has once, for example k8s:ns:{ns}"
                .into(),
        ));
    }
    Ok(ValuePattern::Variable {
        prefix: prefix.into(),
        name: name.into(),
        suffix: suffix.into(),
    })
}

fn remedy_for_selector(text: &str) -> String {
    let names: Vec<&str> = Key::all().map(Key::name).collect();
    let mut parts = text.splitn(3, ':');
    let name = [parts.next(), parts.next()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(":");
    if let Some(key) = Key::from_name(&name) {
        return if key.is_flag() {
            format!("write `{name}`: it has no value")
        } else {
            format!("write `{name}:VALUE`")
        };
    }
    format!(
        "{}write TYPE:KEY:VALUE, for example systemd:id:billing.service",
        super::fields::meant(&name, &names)
    )
}

/// A path, by whole segments: `*` is any one segment, a last `**` any number of them, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    segments: Vec<Segment>,
    below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(Arc<str>),
    Any,
}

/// Segments of a canonical path; `/` has none.
pub(crate) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/')
        .unwrap_or(path)
        .split('/')
        .filter(|segment| !segment.is_empty())
}

impl PathPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, (String, String)> {
        let refuse = |why: &str, instead: String| Err((format!("`{text}` {why}"), instead));
        let clean: Vec<&str> = segments(text).filter(|s| *s != ".").collect();
        let canonical = format!("/{}", clean.join("/"));
        if canonical != text {
            return refuse(
                "is not a canonical path",
                format!("write `{canonical}`: one slash before each segment, none at the end"),
            );
        }
        if clean.contains(&"..") {
            return refuse("leads upwards", "write the path that it leads to".into());
        }
        let below = clean.last() == Some(&"**");
        let named = &clean[..clean.len() - usize::from(below)];
        if named
            .iter()
            .any(|s| s.contains("**") || (s.contains('*') && *s != "*"))
        {
            return refuse(
                "has a wildcard that is not a whole segment",
                "write `*` for one segment, and `**` only as the last one".into(),
            );
        }
        if text.contains(['%', '?', '#']) || text.chars().any(char::is_control) {
            return refuse(
                "holds characters that a decoded path never has",
                "write the decoded path, without query".into(),
            );
        }
        let segment = |s: &&str| match *s {
            "*" => Segment::Any,
            literal => Segment::Literal(literal.into()),
        };
        Ok(Self {
            segments: named.iter().map(segment).collect(),
            below,
        })
    }

    fn is_exact(&self) -> bool {
        !self.below && !self.segments.contains(&Segment::Any)
    }

    /// Whether it covers the path, and with `subtree` all that is below it.
    pub(crate) fn covers(&self, path: &str, subtree: bool) -> bool {
        if subtree && !self.below {
            return false;
        }
        let mut path = segments(path);
        for segment in &self.segments {
            match (segment, path.next()) {
                (_, None) => return false,
                (Segment::Literal(literal), Some(s)) if **literal != *s => return false,
                _ => {}
            }
        }
        self.below || path.next().is_none()
    }

    /// Whether it matches the path, or with `subtree` anything that is below it.
    pub(crate) fn touches(&self, path: &str, subtree: bool) -> bool {
        let mut path = segments(path);
        for segment in &self.segments {
            match (segment, path.next()) {
                (_, None) => return subtree,
                (Segment::Literal(literal), Some(s)) if **literal != *s => return false,
                _ => {}
            }
        }
        self.below || path.next().is_none()
    }

    /// The literal segments that it begins with, as a path: where an index looks for it.
    pub(crate) fn literal_prefix(&self) -> String {
        let mut prefix = String::new();
        for segment in &self.segments {
            let Segment::Literal(literal) = segment else {
                break;
            };
            prefix.push('/');
            prefix.push_str(literal);
        }
        prefix
    }

    /// The same in lower case: some clouds' paths don't tell cases apart.
    fn folded(mut self, cloud: Cloud) -> Self {
        if cloud == Cloud::Azure {
            for segment in &mut self.segments {
                if let Segment::Literal(literal) = segment {
                    *literal = literal.to_ascii_lowercase().into();
                }
            }
        }
        self
    }
}

/// What is done at a path. A right to read is never a right to approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    Write,
}

/// `read = ["azure:/metadata/instance/**"]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessPattern {
    pub(crate) access: Access,
    pub(crate) cloud: Cloud,
    pub(crate) path: PathPattern,
}

impl AccessPattern {
    pub(crate) fn parse(access: Access, text: &str) -> Result<Self, (String, String)> {
        let parts = text.split_once(':').and_then(|(cloud, path)| {
            let (_, cloud) = super::read::CLOUDS.iter().find(|(n, _)| *n == cloud)?;
            path.starts_with('/').then_some((*cloud, path))
        });
        let Some((cloud, path)) = parts else {
            return Err((
                format!("`{text}` is not a metadata path"),
                "write CLOUD:/PATH, for example azure:/metadata/instance/compute/**".into(),
            ));
        };
        let path = PathPattern::parse(path).map_err(|(why, instead)| {
            let canonical = instead.strip_prefix("write `/");
            let instead = canonical.map_or(instead.clone(), |rest| {
                format!(
                    "write `{}:/{rest}",
                    text.split(':').next().unwrap_or_default()
                )
            });
            (why, instead)
        })?;
        Ok(Self {
            access,
            cloud,
            path: path.folded(cloud),
        })
    }
}

/// Who is told each id that was found.
type Found<'a> = &'a mut dyn FnMut(u32);

/// Patterns with an id each, found by the segments of a path at a cost that doesn't grow with those that can't match.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    literal: HashMap<Arc<str>, Trie>,
    any: Option<Box<Trie>>,
    here: Vec<u32>,
    below: Vec<u32>,
}

impl Trie {
    pub(crate) fn insert(&mut self, pattern: &PathPattern, id: u32) {
        let mut node = self;
        for segment in &pattern.segments {
            node = match segment {
                Segment::Literal(literal) => node.literal.entry(literal.clone()).or_default(),
                Segment::Any => node.any.get_or_insert_default(),
            };
        }
        let ids = if pattern.below {
            &mut node.below
        } else {
            &mut node.here
        };
        ids.push(id);
    }

    /// Calls `found` for each pattern that covers the path ([`PathPattern::covers`]).
    pub(crate) fn covering(&self, path: &str, subtree: bool, found: Found<'_>) {
        self.walk(path, found, &|node, found| {
            if !subtree {
                node.here.iter().for_each(|id| found(*id));
            }
        });
    }

    /// Calls `found` for each pattern that touches the path ([`PathPattern::touches`]).
    pub(crate) fn touching(&self, path: &str, subtree: bool, found: Found<'_>) {
        self.walk(path, found, &|node, found| {
            node.here.iter().for_each(|id| found(*id));
            if subtree {
                node.descendants(found);
            }
        });
    }

    fn walk(&self, rest: &str, found: Found<'_>, end: &dyn Fn(&Self, Found<'_>)) {
        self.below.iter().for_each(|id| found(*id));
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        if rest.is_empty() {
            return end(self, found);
        }
        let (segment, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(next) = self.literal.get(segment) {
            next.walk(rest, found, end);
        }
        if let Some(next) = &self.any {
            next.walk(rest, found, end);
        }
    }

    fn descendants(&self, found: Found<'_>) {
        for node in self.literal.values().chain(self.any.as_deref()) {
            node.here
                .iter()
                .chain(&node.below)
                .for_each(|id| found(*id));
            node.descendants(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_and_touching() {
        let pattern = |text| PathPattern::parse(text).unwrap();
        let all = pattern("/a/**");
        assert!(all.covers("/a", true) && all.covers("/a/b", true) && !all.covers("/ab", false));
        let one = pattern("/a/*/c");
        assert!(one.covers("/a/b/c", false) && !one.covers("/a/b/c", true));
        assert!(one.touches("/a", true) && one.touches("/", true) && !one.touches("/a", false));
        assert!(!one.touches("/x", true) && !one.touches("/a/b/c/d", true));
        assert!(pattern("/").covers("/", false) && pattern("/**").covers("/x", true));
    }

    proptest::proptest! {
        // `explain` asks the pattern, the decision asks the index.
        #[test]
        fn the_index_finds_what_the_pattern_says(
            patterns in proptest::collection::vec("(/(a|b|\\*)){0,3}(/\\*\\*)?", 1..6),
            path in "(/(a|b|c)){0,4}",
            subtree in proptest::prelude::any::<bool>(),
        ) {
            let patterns: Vec<_> = patterns
                .iter()
                .map(|text| PathPattern::parse(if text.is_empty() { "/" } else { text }).unwrap())
                .collect();
            let mut trie = Trie::default();
            for (id, pattern) in (0..).zip(&patterns) {
                trie.insert(pattern, id);
            }
            let sorted = |mut ids: Vec<u32>| { ids.sort_unstable(); ids };
            let (mut covering, mut touching) = (vec![], vec![]);
            trie.covering(&path, subtree, &mut |id| covering.push(id));
            trie.touching(&path, subtree, &mut |id| touching.push(id));
            let these = |holds: &dyn Fn(&PathPattern) -> bool| -> Vec<u32> {
                (0..).zip(&patterns).filter(|(_, p)| holds(p)).map(|(id, _)| id).collect()
            };
            proptest::prop_assert_eq!(sorted(covering), these(&|p| p.covers(&path, subtree)));
            proptest::prop_assert_eq!(sorted(touching), these(&|p| p.touches(&path, subtree)));
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_taken() {
        for bad in [
            "a", "/a/", "//a", "/a/./b", "/a/../b", "/a/**/b", "/a*", "/a%2fb", "/a?b", "",
        ] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
