//! `selectors` and `any_of` become alternatives: lists of patterns that all must match.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Compiling;
use crate::policy::diagnostic::Place;
use crate::policy::document::{At, SelectorList, Text};
use crate::policy::pattern::{SelectorPattern, ValuePattern};
use crate::policy::set::Alternative;
use crate::selector::Key;

/// Programs that run what others wrote: that such a program calls says little about who wrote it.
const INTERPRETERS: [&str; 12] = [
    "bash", "sh", "dash", "zsh", "python", "perl", "ruby", "node", "java", "php", "curl", "wget",
];

impl Compiling {
    /// `selectors` and each branch of `any_of` together. `subject`: who they select, for messages.
    pub(super) fn alternatives(
        &mut self,
        subject: &str,
        place: &Place,
        selectors: &SelectorList,
        any_of: &Option<At<Vec<At<Vec<Text>>>>>,
    ) -> Vec<Alternative> {
        let help =
            "name at least one selector: [\"cgroup:path:/**\"] selects every process on the host";
        if let Some(list) = selectors.as_ref().filter(|l| l.value.is_empty()) {
            self.error(
                &list.place,
                format!("{subject}: `selectors` is empty"),
                help,
            );
        }
        if let Some(list) = any_of.as_ref().filter(|l| l.value.is_empty()) {
            let help =
                "leave `any_of` out, or name an alternative: any_of = [[\"systemd:id:a.service\"]]";
            self.error(&list.place, format!("{subject}: `any_of` is empty"), help);
        }
        let common = selectors.as_ref().map(|l| &l.value[..]).unwrap_or_default();
        let Some(branches) = any_of else {
            return self.alternative(place, common, &[]).into_iter().collect();
        };
        let mut alternatives = vec![];
        for branch in &branches.value {
            if branch.value.is_empty() {
                let title = format!("{subject}: an alternative of `any_of` is empty");
                self.error(&branch.place, title, help);
            }
            alternatives.extend(self.alternative(&branch.place, common, &branch.value));
        }
        alternatives
    }

    fn alternative(&mut self, place: &Place, a: &[Text], b: &[Text]) -> Option<Alternative> {
        let mut patterns = vec![];
        let mut seen = HashSet::new();
        for text in a.iter().chain(b) {
            match SelectorPattern::parse(&text.value) {
                Ok(pattern) => {
                    if seen.insert(text.value.clone()) {
                        patterns.push(pattern);
                    } else {
                        let title = format!("`{}` stands here twice", text.value);
                        self.warning(&text.place, title, "leave one out");
                    }
                }
                Err((title, help)) => self.error(&text.place, title, help),
            }
        }
        if patterns.is_empty() {
            return None;
        }
        self.contradictions(place, &patterns);
        let texts: Vec<Arc<str>> = patterns.iter().map(|p| p.text.clone()).collect();
        Some(Alternative {
            owner: 0,
            needs_recheck: patterns.iter().any(|p| p.key.needs_recheck()),
            texts: texts.into(),
            patterns,
        })
    }

    fn contradictions(&mut self, place: &Place, patterns: &[SelectorPattern]) {
        let mut values: HashMap<Key, &Arc<str>> = HashMap::new();
        for pattern in patterns {
            let ValuePattern::Exact(value) = &pattern.value else {
                continue;
            };
            if pattern.key.many() {
                continue;
            }
            if let Some(other) = values.insert(pattern.key, value).filter(|o| *o != value) {
                let title = format!(
                    "no caller has `{0}:{other}` and `{0}:{value}` at once",
                    pattern.key
                );
                self.error(
                    place,
                    title,
                    "all selectors of a list must match: use any_of for alternatives",
                );
            }
        }
    }

    /// What allows must not rest on.
    pub(super) fn lint_allowing(&mut self, name: &Text, alternatives: &[Alternative]) {
        for alternative in alternatives {
            let keys = || alternative.patterns.iter().map(|p| p.key);
            if keys().all(Key::caller_influenced) {
                let title = format!(
                    "workload `{}` rests only on what the caller can choose: {}",
                    name.value,
                    alternative.texts.join(", ")
                );
                let help = "add a selector that it can't choose, for example systemd:id, cgroup:path or unix:uid";
                self.error(&name.place, title, help);
            } else if keys().all(|key| key.rests_on_executable()) || interpreter_alone(alternative)
            {
                let title = format!("workload `{}` rests on an executable alone", name.value);
                let help = "add systemd:id or unix:user: whoever may run this program may otherwise have what it may have";
                self.warning(&name.place, title, help);
            }
            if let Some(key) = keys().find(|key| !key.attested()) {
                let title = format!(
                    "nothing attests `{key}` in this version: workload `{}` matches nobody",
                    name.value
                );
                let help = "check and explain take it; use unix, cgroup or systemd selectors for it to have an effect";
                self.warning(&name.place, title, help);
            }
            self.lint_units(name, alternative);
        }
    }

    /// Units are known by their whole names; `systemctl` takes them without the suffix, so people write them so.
    fn lint_units(&mut self, name: &Text, alternative: &Alternative) {
        for text in alternative.texts.iter() {
            let Some((key, unit)) = text
                .strip_prefix("systemd:")
                .and_then(|t| t.split_once(':'))
            else {
                continue;
            };
            let suffix = if key == "slice" { ".slice" } else { ".service" };
            if key == "slice" && !unit.ends_with(suffix) || !unit.contains('.') {
                let title = format!("no unit is called `{unit}`: `{text}` matches nobody");
                let help = format!("write the whole name: systemd:{key}:{unit}{suffix}");
                self.warning(&name.place, title, help);
            }
        }
    }
}

/// An interpreter's path, with nothing beside it but the users that may all run it.
fn interpreter_alone(alternative: &Alternative) -> bool {
    let runs = alternative.patterns.iter().any(|p| {
        p.key == Key::UnixPath
            && p.text.rsplit('/').next().is_some_and(|file| {
                let bare = file.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                INTERPRETERS.contains(&bare)
            })
    });
    let firm = |key: Key| !key.rests_on_executable() && key != Key::CgroupPath;
    runs && !alternative.patterns.iter().any(|p| firm(p.key))
}
