//! Sources become a [`PolicySet`], or every reason why not, at once. Order of the included sources changes nothing: they
//! are taken by name. Resolves names, proves `sub` templates, and lints; never reads a file or a clock.

use std::collections::HashMap;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Diagnostics, Place, Severity, Source};
use super::document::{At, Files, Text};
use super::read::NOT_TOML;
use super::resource::{Kind, Targets};
use super::set::PolicySet;
use super::{Compiled, Document, Identity, Includes, preset};
use crate::decision::RuleRef;
use crate::request::Cloud;

mod assumed;
mod federation;
mod guests;
mod identities;
mod lifelines;
mod rules;
mod selectors;
mod sessions;
mod settings;
mod subjects;

/// Reads only the `include` list of the main file. Presets are left out: they are compiled in.
pub fn includes(main: &Source) -> Result<Includes, Diagnostics> {
    let mut files = Files::default();
    let all = super::read::read(&mut files, 0, main, true);
    let wanted = files.include.into_iter();
    let files: Vec<_> = wanted
        .filter(|text| !text.value.starts_with(preset::PREFIX))
        .map(|text| (text.value, text.place))
        .collect();
    let diagnostics = Diagnostics {
        sources: vec![main.clone()],
        all,
    };
    // Only a file that can't be read at all ends it here: everything else is told by compile, with the included files' errors.
    if files.is_empty()
        && diagnostics
            .all
            .iter()
            .any(|d| d.title.starts_with(NOT_TOML))
    {
        return Err(diagnostics);
    }
    Ok(Includes { files })
}

/// Compiles the main file (`sources[0]`) and every included one (the others, in any order).
/// `hostname` stands in for `[host] name`; `now` (Unix seconds) is for warnings about dates that have passed, alone.
pub fn compile(sources: &[Source], hostname: &str, now: i64) -> Result<Compiled, Diagnostics> {
    let mut c = Compiling::new(sources, now);
    let files = c.read();
    let settings = c.settings(&files, hostname);
    c.resources(&files);
    c.identities(&files);
    c.documents(&files);
    let mut policy = c.rules(&files, &settings);
    c.prove_subjects(&files, &policy, &settings.host);
    c.prove_sessions(&files, &policy, &settings.host);
    c.subjects(&mut policy, &settings.host);
    c.finish(files, settings, policy)
}

/// What the steps of one compilation share.
struct Compiling {
    sources: Vec<Source>,
    /// Where each source's lines end: a rule's line is found without reading the file again for every rule.
    line_ends: Vec<Vec<usize>>,
    all: Vec<Diagnostic>,
    now: i64,
    targets: Targets,
    identities: HashMap<Arc<str>, Arc<Identity>>,
    documents: HashMap<Arc<str>, Arc<Document>>,
}

impl Compiling {
    fn new(sources: &[Source], now: i64) -> Self {
        let mut sources = sources.to_vec();
        if let Some((_, included)) = sources.split_first_mut() {
            included.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self {
            sources,
            line_ends: vec![],
            all: vec![],
            now,
            targets: Targets::shipped(),
            identities: HashMap::new(),
            documents: HashMap::new(),
        }
    }

    fn error(&mut self, place: &Place, title: impl Into<String>, help: impl Into<String>) {
        self.say(Severity::Error, place, title.into(), help.into());
    }

    fn warning(&mut self, place: &Place, title: impl Into<String>, help: impl Into<String>) {
        self.say(Severity::Warning, place, title.into(), help.into());
    }

    fn say(&mut self, severity: Severity, place: &Place, title: String, help: String) {
        let place = place.clone();
        self.all.push(Diagnostic {
            severity,
            place,
            title,
            help,
        });
    }

    fn read(&mut self) -> Files {
        let mut files = Files::default();
        let mut index = 0;
        while let Some(source) = self.sources.get(index).cloned() {
            let said = super::read::read(&mut files, index, &source, index == 0);
            self.all.extend(said);
            let ends = source.text.match_indices('\n').map(|(at, _)| at);
            self.line_ends.push(ends.collect());
            if index == 0 {
                self.add_presets(&files.include);
            }
            index += 1;
        }
        files
    }

    fn add_presets(&mut self, include: &[Text]) {
        for text in include {
            let Some(name) = text.value.strip_prefix(preset::PREFIX) else {
                continue;
            };
            if let Some(toml) = preset::find(name) {
                let source = Source {
                    name: text.value.clone(),
                    text: toml.into(),
                };
                if !self.sources.iter().any(|s| s.name == source.name) {
                    self.sources.push(source);
                }
            } else {
                let known = preset::names();
                let meant = super::fields::meant(name, &known);
                let help = format!("{meant}the presets are: {}", known.join(", "));
                self.error(&text.place, format!("there is no preset `{name}`"), help);
            }
        }
    }

    fn resources(&mut self, files: &Files) {
        let mut seen = HashMap::new();
        for (name, entry) in &files.resource.0 {
            self.unique("resource", name, &mut seen);
            if entry.cloud.value != Cloud::Azure {
                let title = "only Azure's resources go by several names";
                self.error(&entry.cloud.place, title, "write cloud = \"azure\"");
                continue;
            }
            let names: Vec<&str> = entry.names.iter().map(|n| &*n.value).collect();
            if names.is_empty() {
                let help = "write names = [\"https://…\", \"APPLICATION-ID\"]";
                self.error(&name.place, "this resource has no names", help);
            } else if let Err(other) = self.targets.unite(Kind::AzureResource, &names) {
                let place = entry.names.iter().find(|n| &*n.value == other);
                let place = place.map_or(&name.place, |n| &n.place).clone();
                let title = format!("`{other}` already names another resource");
                let help = "leave it out here: a name stands for one resource, and the well-known ones are built in";
                self.error(&place, title, help);
            }
        }
    }

    fn documents(&mut self, files: &Files) {
        let mut seen = HashMap::new();
        for (name, entry) in &files.document.0 {
            self.unique("document", name, &mut seen);
            let document = Document {
                name: name.value.clone(),
                cloud: entry.cloud.value,
                instance: entry.instance.value.clone(),
            };
            self.documents.insert(name.value.clone(), document.into());
        }
    }

    /// Complains about the second one of a name.
    fn unique(&mut self, kind: &str, name: &Text, seen: &mut HashMap<Arc<str>, Place>) {
        if let Some(first) = seen.get(&name.value) {
            let line = self.line(first);
            let file = self.sources[first.source].name.clone();
            let title = format!("this is a second {kind} called `{}`", name.value);
            let help = format!("give it a name of its own: the first one stands in {file}:{line}");
            self.error(&name.place, title, help);
        } else {
            seen.insert(name.value.clone(), name.place.clone());
        }
    }

    fn line(&self, place: &Place) -> u32 {
        let ends = self.line_ends.get(place.source);
        let before = ends.map_or(0, |ends| ends.partition_point(|at| *at < place.bytes.start));
        u32::try_from(before + 1).unwrap_or(u32::MAX)
    }

    fn rule_ref(&self, name: Arc<str>, place: &Place) -> Arc<RuleRef> {
        let file = self.sources.get(place.source);
        Arc::new(RuleRef {
            name,
            file: file.map_or_else(|| "".into(), |s| s.name.clone()),
            line: self.line(place),
        })
    }

    /// Looks a name up, or says which names there are.
    fn resolve<T: Clone>(
        &mut self,
        kind: &str,
        name: &Text,
        table: fn(&Self) -> &HashMap<Arc<str>, T>,
    ) -> Option<T> {
        if let Some(found) = table(self).get(&name.value) {
            return Some(found.clone());
        }
        let mut known: Vec<String> = table(self).keys().map(ToString::to_string).collect();
        known.sort();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let help = format!(
            "{}name one that is defined, or define [{kind}.{}]",
            super::fields::meant(&name.value, &known),
            name.value
        );
        let title = format!("there is no {kind} `{}`", name.value);
        self.error(&name.place, title, help);
        None
    }

    fn finish(
        mut self,
        files: Files,
        settings: super::Settings,
        mut policy: PolicySet,
    ) -> Result<Compiled, Diagnostics> {
        self.all
            .sort_by_key(|d| (d.place.source, d.place.bytes.start, d.title.clone()));
        self.all.dedup();
        let warnings = Diagnostics {
            sources: self.sources,
            all: self.all,
        };
        if warnings.has_errors() {
            return Err(warnings);
        }
        policy.targets = self.targets;
        policy.files = files;
        Ok(Compiled {
            settings,
            policy,
            warnings,
        })
    }
}

/// Seconds from `1h`, `30m`, `45s`.
fn seconds(text: &str) -> Option<u32> {
    let unit = text.chars().last()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return None,
    };
    let number: u32 = text[..text.len() - 1].parse().ok()?;
    number.checked_mul(factor).filter(|s| *s > 0)
}

impl<T> At<T> {
    fn as_ref(&self) -> (&T, &Place) {
        (&self.value, &self.place)
    }
}
